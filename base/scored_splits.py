"""Which splits and evaluation sets `test.py --split NAME` means."""
from base.base_data_loader import DataSplits
from utils.config.blocks import SPLITS
from utils.config.suggestions import suggest_name
from utils.errors import ConfigError


def scored_splits(data: DataSplits, name: str) -> list[str]:
    """The splits and sets to score: of `name`, or of val and test for "all".

    `name` is a split, or a set (`clean`, `val/clean`). Raises ConfigError if there is none, or more than one.
    """
    if name in (*SPLITS, "all"):
        splits = ("val", "test") if name == "all" else (name,)
        found = [part for split in splits for part in data.sets(split)]
    else:
        named = [part for parts in data.evaluation_sets.values() for part in parts]
        found = [part for part in named if name in (part, part.partition("/")[2])]
        if len(found) > 1:
            raise ConfigError(f"--split {name}: there are several: {', '.join(found)}. Write one of them.")
    if not found:
        known = [part for split in SPLITS if split != name
                 for part in data.evaluation_sets.get(split, [split])]
        short = [part.rpartition("/")[2] for part in known if name not in SPLITS]
        raise ConfigError(f"--split {name}: the dataset has no such split.{suggest_name(name, short)} "
                          f"There may be: {', '.join([*known, 'all'])}.")
    return found
