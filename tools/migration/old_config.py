"""A config of pytorch-template during its conversion: what is left of it becomes notes."""
import copy

from utils.config.annotations import mismatch
from utils.config.loading import place_of
from utils.errors import ConfigError

# What to do about what was not converted, by the beginning of its key. The first match is used.
_BY_HAND = {
    "n_gpu": "belongs to the command line: --device cpu for 0, --distributed --nproc N for several",
    "arch": ("not carried; a model is one class here, with all it needs in args, and several networks as its "
             "submodules"),
    "loss": "not carried; one function computes all terms here, and returns their sum or a dict of them",
    "trainer.type": "not carried; move the class as docs/migrate.md says, then name it as trainer.type",
    "trainer.save_dir": "belongs to the command line: --out DIR (saved/)",
    "trainer.verbosity": "belongs to the command line: -q for warnings only, -v for more messages",
    "trainer": "not carried; a trainer of your own takes further options from trainer.args",
    **dict.fromkeys(("wandb", "visualization", "tensorboardX", "logger", "log_dir"),
                    "not carried; what is logged elsewhere is a writer, see docs/trackers.md")}
# The beginnings of notes on what can wait; the others come first, and what is missing before them.
_CAN_WAIT = ("belongs to the command line", "123, as in", "dropped")


class OldConfig:
    """The old config during the conversion. Values that were not taken stay in `rest`, and become notes."""

    def __init__(self, config: dict, places: dict):
        self.rest, self.places, self.notes = copy.deepcopy(config), places, {}

    def look(self, *path: str):
        """The value at `path`; None if there is none."""
        value = self.rest
        for end, key in enumerate(path):
            self._require(value, dict | None, path[:end])
            value = (value or {}).get(key)
        return value

    def take(self, *path: str, kind=object):
        """Like `look`, and removes the value from `rest`. Raises ConfigError if it is not of that kind."""
        value = self.look(*path)
        self._require(value, kind | None, path)
        (self.look(*path[:-1]) or {}).pop(path[-1], None)
        return value

    def block(self, *path: str) -> dict | None:
        """Takes a block, with args or with its arguments beside `type`, or a name. None without `type`."""
        if isinstance(self.look(*path), dict):
            name = self.take(*path, "type", kind=str)
            return {"type": name, "args": self.arguments(*path)} if name is not None else None
        name = self.take(*path, kind=str)
        return {"type": name} if name is not None else None

    def arguments(self, *path: str) -> dict:
        """Takes the arguments of the block at `path`: its args or, without these, what is beside `type`."""
        where = self.home(*path)
        return {key: self.take(*where, key) for key in list(self._table(*where)) if key != "type"}

    def home(self, *path: str) -> tuple[str, ...]:
        """The path of the table with the arguments of the block at `path`."""
        value = self.look(*path)
        return (*path, "args") if isinstance(value, dict) and "args" in value else path

    def _table(self, *path: str) -> dict:
        value = self.look(*path)
        self._require(value, dict | None, path)
        return value or {}

    def blocks(self, *path: str) -> dict | None:
        """Takes a block, or several blocks by name (for several networks)."""
        several = self.look(*path)
        if (isinstance(several, dict) and several
                and all(isinstance(b, dict) and "type" in b for b in several.values())):
            self.notes[".".join(path)] = (f"{', '.join(several)}: these have to be the names of the model's "
                                          "submodules")
            return {name: self.block(*path, name) for name in list(several)}
        return self.block(*path)

    def note_rest(self) -> None:
        """Notes what was not taken, with what to do about it; a subtree with one answer is one note."""
        for key, (text, leaves) in _folded(self.rest, ""):
            shown = ", ".join(leaves[:6]) + (", ..." if leaves[6:] else "")
            self.notes.setdefault(key, text + (f" ({shown})" if leaves != [""] else ""))

    def sorted_notes(self) -> dict[str, str]:
        """The notes, the most important ones first."""
        def rank(key: str) -> int:
            text = self.notes[key]
            return 2 if text.startswith(_CAN_WAIT) else 0 if text.startswith("missing") else 1

        return {key: self.notes[key] for key in sorted(self.notes, key=rank)}

    def _require(self, value, kind, path: tuple) -> None:
        if fault := mismatch(value, kind):
            raise ConfigError(f"{place_of(self.places, path).source}  {'.'.join(path)}: {fault}")


def _folded(value, key: str) -> list[tuple[str, tuple[str, list[str]]]]:
    """(key, (what to do, its leaves)) of what is left of a config; siblings with the same answer are one."""
    if not isinstance(value, dict):
        fitting = (text for start, text in _BY_HAND.items() if f"{key}.".startswith(f"{start}."))
        return [(key, (next(fitting, "not carried; nothing here has this name"), [""]))]
    found = [row for name, item in value.items() for row in _folded(item, f"{key}.{name}" if key else name)]
    if not key or len(found) < 2 or len({text for _, (text, _) in found}) > 1:
        return found
    below = [f"{at[len(key) + 1:]}.{leaf}".strip(".") for at, (_, leaves) in found for leaf in leaves]
    return [(key, (found[0][1][0], below))]
