"""From a dataset to batches on the device; base_data_loader.py combines these. Begin with sampler.py.

sampler    which samples make up a batch      views     reads the samples of a batch from a dataset
arrays     whole batches from arrays          streams   IterableDataset: position and resume
planned    batches by a sampler of the config  split_info   what the dataset tells of its samples
bad_samples    samples that cannot be read
batch_transforms, augmentation    whole batches on the device      nested    tensors in tuples and dicts
"""
