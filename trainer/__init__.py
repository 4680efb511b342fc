"""Trainers: what happens to one batch. Every file in this folder is imported automatically."""
