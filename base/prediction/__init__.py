"""From a checkpoint and inputs to predictions; base/api.py and predict.py use it.

outputs   what a model's outputs mean             inputs   files that are no dataset's, and names of samples
files     predictions as .csv, .jsonl, .npz or pictures, written as they come
"""
