"""Where the trials of a sweep run: as processes of this machine, or on a Ray cluster."""
