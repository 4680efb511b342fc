"""Where the modules and names of earlier versions are now. Imports that still use them work and warn once.

All of 1.x keeps them. `utils/__init__.py` calls `install`; a package is imported before its modules. A module
that was split is an object of its own: to replace something in it, for a test, use the present module.
"""
import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Callable
from types import CodeType, ModuleType

# Modules: the old name, and where what they held is now.
MODULES = {
    "base.arrays": ("base.data.arrays",),
    "base.augmentation": ("base.data.augmentation",),
    "base.blame": ("base.preflight.locate_error",),
    "base.check": ("base.config.validate",),
    "base.checkup": ("tools.check",),
    "base.elsewhere": ("base.config.key_hints",),
    "base.evidence": ("base.nan_report",),
    "base.explain": ("tools.explain_argument", "tools.list_names"),
    "base.find_batch_size": ("tools.find_batch_size",),
    "base.find_lr": ("tools.find_lr",),
    "base.fit": ("base.preflight.loss",),
    "base.leaving": ("utils.training.stop_requests",),
    "base.overlap": ("tools.data_checks.overlap",),
    "base.preparation": ("base.data.batch_transforms",),
    "base.profiling": ("tools.profile",),
    "base.rehearsal": ("base.preflight.preflight",),
    "base.samples": ("base.data.views", "base.data.sampler", "base.data.nested"),
    "base.sharing": ("utils.distributed.sharding", "utils.distributed.collectives"),
    "base.starting": ("base.run.setup", "base.run.checkpoints", "base.run.initial_weights",
                      "base.run.run_config"),
    "base.streams": ("base.data.streams",),
    "base.verify": ("tools.verify_resume",),
    "utils.archive": ("utils.checkpoint.archive",),
    "utils.compiling": ("utils.training.compile_options",),
    "utils.consolidate": ("tools.consolidate",),
    "utils.dist": ("utils.distributed.collectives", "utils.distributed.group", "utils.distributed.sharding",
                   "utils.distributed.launch"),
    "utils.docstrings": ("tools.reference.docstrings",),
    "utils.ema": ("utils.training.ema",),
    "utils.guard": ("utils.training.non_finite_guard",),
    "utils.laps": ("utils.training.timers",),
    "utils.launch": ("utils.distributed.launch", "utils.distributed.environment"),
    "utils.mends": ("utils.config.suggestions",),
    "utils.migrate": ("tools.migrate",),
    "utils.monitor": ("utils.training.monitor",),
    "utils.origins": ("tools.print_config", "tools.explain", "tools.diff", "utils.config.syntax"),
    "utils.parts": ("utils.checkpoint.dcp",),
    "utils.progress": ("utils.training.progress",),
    "utils.reference": ("tools.config_docs",),
    "utils.references": ("utils.config.interpolation",),
    "utils.registry": ("utils.config.registry",),
    "utils.run": ("utils.run_folder", "utils.run_record"),
    "utils.schema": ("tools.schema",),
    "utils.schema_blocks": ("tools.reference.schema_blocks",),
    "utils.schema_types": ("tools.reference.schema_types",),
    "utils.sections": ("utils.config.sections",),
    "utils.settable": ("tools.reference.settable",),
    "utils.shards": ("utils.checkpoint.sharded",),
    "utils.signature": ("utils.config.signature", "utils.config.annotations", "utils.config.suggestions"),
    "utils.state": ("utils.checkpoint.state", "utils.distributed.sharding"),
    "utils.strategy": ("utils.distributed.strategy",),
    "utils.sync_batchnorm": ("utils.distributed.sync_batchnorm",),
    "utils.syntax": ("utils.config.syntax",),
    "utils.updater": ("utils.training.updater", "utils.training.schedule"),
}
# Names that changed, by the module that had them.
NAMES = {
    "base.base_data_loader": {"FILLED_IN": "PROVIDED", "part_or_count": "fraction_or_count"},
    "base.build": {"FUSED_IN_PARTS": "FUSED_WHEN_SHARDED", "build_per": "build_scheduler_factory",
                   "dataset_switches": "open_split_arguments", "where_kept": "split_device_argument"},
    "base.recovery": {"BeforeStep": "StepSnapshot"},
    "base.summary": {"outcome": "describe_outcome", "table": "format_table"},
    "utils.errors": {"describe": "describe_error"},
    "utils.random": {"scrambled": "scramble"},
    "utils.signals": {"StopRequest": "StopRequest"},
    "base.arrays": {"batches_of": "batch_fetcher", "kept_on": "move_arrays"},
    "base.blame": {"shapes_of": "describe_shapes", "to_blame": "locate_error"},
    "base.check": {"check_config": "validate_config"},
    "base.checkup": {"check_up": "check_experiment"},
    "base.elsewhere": {"CALLED": "OTHER_NAMES", "told_where": "add_key_hints"},
    "base.evidence": {"describe_non_finite": "report_non_finite"},
    "base.explain": {"explain": "explain_argument"},
    "base.find_batch_size": {"needs_cuda": "require_cuda", "pieces_of": "split_batch_size"},
    "base.find_lr": {"follow": "record_losses"},
    "base.fit": {"check_batch_size": "require_samples_for_a_batch", "loss_watched": "loss_inputs_watched"},
    "base.leaving": {"Asked": "StopRequests"},
    "base.preparation": {"Preparation": "BatchPreparation"},
    "base.rehearsal": {"rehearse": "preflight"},
    "base.samples": {"Batches": "BatchView", "Part": "RankSlice", "Samples": "SampleView",
                     "as_it_is": "identity_collate", "transformed": "apply_transforms"},
    "base.sharing": {"shard": "shard_model", "share_buffers": "broadcast_buffers"},
    "base.starting": {"checkpoint_of_all": "broadcast_checkpoint", "initial_weights": "load_initial_weights",
                      "load_evaluated": "load_evaluated_weights", "newest_sound": "newest_valid_checkpoint"},
    "base.streams": {"copy_of_state": "copy_state"},
    "utils.checkpoint": {"PartsStore": "ShardStore", "is_sound": "is_valid_checkpoint",
                         "put_together": "consolidate_shards"},
    "utils.compiling": {"parse_compile": "parse_compile_options"},
    "utils.config": {"report": "format_faults"},
    "utils.dist": {"checkpointing": "distributed_checkpoint", "distribute": "distribute_like",
                   "fully_shard": "shard_modules", "lost_touch": "is_peer_failure"},
    "utils.laps": {"Laps": "Timers", "MUCH": "ADVISE_ABOVE", "describe_laps": "describe_times"},
    "utils.mends": {"meant": "suggest_value"},
    "utils.origins": {"in_yaml": "format_value", "look_up": "value_at"},
    "utils.parts": {"PartsSaving": "AsyncShardSave", "load_parts": "load_shards"},
    "utils.progress": {"Bar": "ProgressBar", "parse_interval": "parse_save_interval",
                       "seconds": "parse_duration", "windows": "accumulation_windows"},
    "utils.run": {"runs_of": "list_runs", "record_environment": "record_start"},
    "utils.settable": {"Settable": "ArgumentTable", "project": "config_sources",
                       "settable": "settable_arguments"},
    "utils.shards": {"KEY": "SHARDS_KEY", "PartsSave": "ShardSave", "placed": "place_state",
                     "take_out": "split_sharded"},
    "utils.signature": {"Unknown": "UnknownKey", "admitted": "describe_argument",
                        "in_words": "describe_annotation",
                        "items_of": "item_annotations", "nearest": "suggest_name", "say": "describe_value"},
    "utils.strategy": {"Gradients": "SharedGradients"},
    "utils.state": {"Copies": "StateCopier", "is_part": "is_sharded", "leaves": "flatten_state",
                    "local": "local_tensor", "non_finite": "find_non_finite", "same": "bit_equal",
                    "tensors_in": "iter_tensors", "whole": "full_tensor"},
    "utils.sync_batchnorm": {"synchronised": "convert_sync_batchnorm"},
}
# Commands `python -m NAME`; they print the new one and end with exit code 2.
COMMANDS = {"utils.consolidate": "tools.consolidate", "utils.migrate": "tools.migrate",
            "utils.reference": "tools.config_docs", "utils.schema": "tools.schema"}
# Modules that still exist, perhaps as packages, and where the names are that they have no more.
EXISTING = {
    "utils.checkpoint": ("utils.checkpoint.store", "utils.checkpoint.loading"),
    "utils.config": ("utils.config.loading", "utils.config.values", "utils.config.blocks"),
    "utils.signals": ("utils.training.stop_requests",),
    "base.recovery": ("base.recovery", "utils.torch_messages"),
    **{name: (name,) for name in ("base.base_data_loader", "base.build", "base.summary", "utils.errors",
                                  "utils.random")},
}


def install() -> None:
    """From here on an import that finds no module is looked up in MODULES."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def find(module: str, name: str):
    """The object that the former `module` held as `name`. Raises AttributeError if there was none."""
    present = NAMES.get(module, {}).get(name, name)
    for target in MODULES.get(module) or EXISTING[module]:
        contents = vars(importlib.import_module(target))
        if present in contents:
            return contents[present]
    raise AttributeError(f"module '{module}' has no attribute '{name}'")


def former_names_of(module: str) -> Callable:
    """The `__getattr__` of a module in EXISTING: finds what it had under former names, and warns."""

    def __getattr__(name: str):
        if name.startswith("__"):
            raise AttributeError(f"module '{module}' has no attribute '{name}'")
        found = find(module, name)
        home = getattr(found, "__module__", EXISTING[module][0])
        warn(f"{module}.{name} is now {home}.{NAMES.get(module, {}).get(name, name)}")
        return found

    return __getattr__


def _former(name: str, present: str) -> property:
    """An attribute of trainers under its former name."""

    def get(trainer):
        warn(f"a trainer's attribute {name} is now {present}")
        return getattr(trainer, present)

    def put(trainer, value):
        warn(f"a trainer's attribute {name} is now {present}")
        setattr(trainer, present, value)

    return property(get, put, doc=f"The former name of `{present}`.")


class FormerTrainerNames:
    """A trainer's attributes under their former names."""

    bare_model = _former("bare_model", "unwrapped_model")
    rehearsing = _former("rehearsing", "in_preflight")
    laps = _former("laps", "timers")


def warn(text: str, stacklevel: int = 3) -> None:
    """Warns once about a name of an earlier version."""
    warnings.warn(f"{text}. The former name works in all of 1.x.", FutureWarning, stacklevel)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, _Loader()) if name in MODULES else None


class _Loader(importlib.abc.InspectLoader):
    """Makes a module of the former name, with the attributes of its successors."""

    def create_module(self, spec) -> None:
        """The usual empty module."""

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        warn(f"{name} is now {' and '.join(MODULES[name])}")
        if len(MODULES[name]) == 1 and name not in NAMES:
            sys.modules[name] = importlib.import_module(MODULES[name][0])
        else:
            successors = map(importlib.import_module, MODULES[name])
            public = [key for successor in successors for key in vars(successor) if not key.startswith("_")]
            module.__all__ = [*public, *NAMES.get(name, ())]  # for `from NAME import *`
            module.__getattr__ = lambda attribute: find(name, attribute)

    def get_code(self, name: str) -> CodeType | None:
        """What `python -m NAME` runs."""
        if name not in COMMANDS:
            return None
        text = f"python -m {name} is now: python -m {COMMANDS[name]}"
        return compile(f"import sys\nprint({text!r}, file=sys.stderr)\nsys.exit(2)", name, "exec")

    def get_source(self, name: str) -> None:
        """It has none."""
