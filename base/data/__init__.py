"""From a dataset to batches on the device; base_data_loader.py puts these together. Begin with sampler.py.

sampler    which samples make up a batch      views     a dataset asked for the samples of a batch
arrays     whole batches from arrays          streams   IterableDataset: position and resume
batch_transforms, augmentation    what happens to whole batches on the device      nested    tensors in tuples and dicts
"""
