"""From a checkpoint and inputs to predictions; base/api.py uses it.

outputs   what a model's outputs mean             inputs   what a dataset reads from a file, as a batch
"""
