"""The values that arguments of libraries take, where their own annotations say nothing or too little."""
import math
from typing import Annotated, Any

from utils.config.annotations import CountInt, FiniteFloat, at_least, below, constraint, mismatch


def _weights(values: list) -> None:
    """A constraint of class weights."""
    numbers = [value for value in values if isinstance(value, (int, float))]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("weights are finite numbers")
    if values and len(numbers) == len(values) and not any(numbers):
        raise ValueError("all weights are 0: nothing would be learned. One at least is above 0.")


def _function(plug_in: str):
    """The annotation of an argument that is a function; a table may be a block that makes one."""
    def refuse(value):
        raise ValueError(f"{value!r} is no function, and a config cannot hold one. Register a plug-in, "
                         f"{plug_in}, and name it as the type.")

    return Annotated[str | float | bool | list, refuse] | dict


_Factor = Annotated[FiniteFloat, at_least(0)]
# By the beginning of a module's name; the first that fits.
_ARGUMENTS = {
    "torch.optim.lr_scheduler": {
        **dict.fromkeys(("gamma", "factor", "eta_min"), _Factor),
        **dict.fromkeys(("base_lr", "max_lr", "min_lr"), _Factor | list[_Factor]),
        **dict.fromkeys(("step_size", "step_size_up", "T_max"), Annotated[float, at_least(1)]),
        **dict.fromkeys(("patience", "cooldown", "total_iters"), CountInt),
        "milestones": list[int], "lr_lambda": _function(
            "@SCHEDULERS.register on a function of `optimizer` that returns the scheduler")},
    "torch.optim": {**dict.fromkeys(("lr", "weight_decay"), _Factor),
                    "betas": list[Annotated[float, at_least(0), below(1)]]},
    "torch.nn.modules.loss": {
        "weight": Annotated[list, _weights],
        "label_smoothing": Annotated[float, at_least(0), constraint(lambda value: value <= 1,
                                                                    "too large; it must be at most 1", {})]},
    "torchvision.transforms": {"lambd": _function("@TRANSFORMS.register on the function"),
                               **dict.fromkeys(("mean", "std"), list[FiniteFloat])},
}


def library_mismatch(owner: Any, name: str, value: Any) -> str | None:
    """Why a value does not fit the argument `name` of a library's class; None for any other class."""
    module = getattr(owner, "__module__", "")
    known = next((arguments for begin, arguments in _ARGUMENTS.items() if module.startswith(begin)), {})
    return mismatch(value, known[name]) if name in known and value is not None else None
