"""Trainers: what happens to one batch; every file here is found by itself."""
