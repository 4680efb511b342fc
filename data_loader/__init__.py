"""Datasets and transforms, one idea a file; every file here is found by itself."""
