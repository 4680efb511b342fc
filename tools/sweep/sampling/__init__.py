"""Which values a trial has: samplers, what they see of the trials before, and which parameters matter."""
