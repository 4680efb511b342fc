"""The options of torch.compile in `trainer.args.compile`."""
from typing import Any

MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


def parse_compile_options(value: bool | str | dict) -> dict[str, Any] | None:
    """Parses `true`, a mode, or `{mode: ..., dynamic: ..., fullgraph: ...}` into options of torch.compile.

    Returns None for `false`: the model is not compiled. Raises ValueError for anything else.
    """
    if isinstance(value, bool):
        return {} if value else None
    options = {"mode": value} if isinstance(value, str) else dict(value)
    for name, given in options.items():
        if name not in ("mode", "dynamic", "fullgraph"):
            raise ValueError(f"'{name}' is no option. "
                             f"Write true, a mode, or {{mode: ..., dynamic: ..., fullgraph: ...}}")
        if name == "mode" and given not in MODES:
            raise ValueError(f"there is no mode '{given}'. There are: {', '.join(MODES)}")
        if name != "mode" and not isinstance(given, bool):
            raise ValueError(f"{name}: {given!r} is neither true nor false")
    return options
