"""The names that forks of pytorch-template use in their configs, and the names of torch."""
# Where forks keep the loader of each split. The first one that is there is used.
LOADERS = {
    "train": ("train_loader", "train_data_loader", "train_dataloader", "data_loader.train",
              "data_loaders.train", "data.train", "dataset.train", "datasets.train",
              "data_loader", "dataloader", "data"),
    "val": ("valid_data_loader", "val_data_loader", "validation_data_loader", "valid_loader", "val_loader",
            "val_dataloader", "data_loader.val", "data_loader.valid", "data_loaders.val",
            "data_loaders.valid", "data.val", "data.valid",
            "dataset.val", "dataset.valid", "datasets.val", "datasets.valid"),
    "test": ("test_data_loader", "test_loader", "test_dataloader", "data_loader.test", "data_loaders.test",
             "data.test", "dataset.test", "datasets.test")}
DATASETS = ("dataset", "train_dataset", "data_set")  # a dataset beside its loader
OF_SPLITS = ("split", "training", "is_train", "mode", "phase")
# Options of trainers of forks, by their names here.
TRAINER = {
    "save_every": ("save_period", "save_freq", "save_every"),
    "clip_norm": ("grad_norm_clip", "clip_grad_norm", "max_grad_norm", "grad_clip", "gradient_clip",
                  "clip_norm"),
    "accumulate": ("accum_iter", "accumulation_steps", "accum_steps", "grad_accum_steps",
                   "gradient_accumulation_steps", "accumulate"),
    "eval_every": ("val_freq", "val_period", "valid_period", "eval_freq", "eval_every",
                   "validation_interval"),
    "log_every": ("log_step", "log_interval", "log_freq", "print_freq", "log_every")}
# The names that torch has (2.3 and later); not asked of torch, which takes seconds to load.
OPTIMIZERS = """ASGD Adadelta Adafactor Adagrad Adam AdamW Adamax LBFGS Muon NAdam RAdam RMSprop Rprop SGD
    SparseAdam""".split()
SCHEDULERS = """ChainedScheduler ConstantLR CosineAnnealingLR CosineAnnealingWarmRestarts CyclicLR
    ExponentialLR LambdaLR LinearLR MultiStepLR MultiplicativeLR OneCycleLR PolynomialLR ReduceLROnPlateau
    SequentialLR StepLR""".split()
