"""Predictions as files, for predict.py and `test.py --predictions`; without this folder both say so.

batches   of a split or of files                  inputs   files that are no dataset's, and names of samples
files     predictions as .csv, .jsonl, .npz or pictures, written as they come
"""
