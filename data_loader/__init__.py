"""Datasets and transforms, one idea per file. Every file in this folder is imported automatically."""
