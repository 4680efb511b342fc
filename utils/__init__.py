"""Tools that know nothing of configs, models or data: everything else stands on them."""
