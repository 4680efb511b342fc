"""Searches over values of a config, and repeats over seeds and folds: `python sweep.py`, docs/sweep.md."""
