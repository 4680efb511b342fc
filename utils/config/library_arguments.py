"""The values that arguments of libraries take, where their own annotations say nothing or too little."""
import math
from typing import Annotated, Any

from utils.config.annotations import CountInt, FiniteFloat, at_least, below, limit, mismatch


def _function(plug_in: str):
    message = f"no function, and a config holds none. Register {plug_in}, and name it as the type."
    return Annotated[str | float | list, limit(lambda value: False, message, {})] | dict  # or a block


def _are_weights(values: list) -> bool:
    numbers = [value for value in values if isinstance(value, (int, float))]
    return all(map(math.isfinite, numbers)) and (any(numbers) or len(numbers) < len(values))


_Factor = Annotated[FiniteFloat, at_least(0)]
_ARGUMENTS = {  # by the beginning of a module's name; the first that fits
    "torch.optim.lr_scheduler": {
        **dict.fromkeys(("gamma", "factor", "eta_min"), _Factor),
        **dict.fromkeys(("base_lr", "max_lr", "min_lr"), _Factor | list[_Factor]),
        **dict.fromkeys(("step_size", "step_size_up", "T_max"), Annotated[float, at_least(1)]),
        **dict.fromkeys(("patience", "cooldown", "total_iters"), CountInt), "milestones": list[int],
        "lr_lambda": _function("a function that builds it, @SCHEDULERS.register def NAME(optimizer)")},
    "torch.optim": {"lr": _Factor, "weight_decay": _Factor, "betas": list[Annotated[_Factor, below(1)]]},
    "torch.nn.modules.loss": {
        "weight": Annotated[list, limit(_are_weights, "no weights: finite numbers, and not all 0", {})],
        "label_smoothing": Annotated[float, at_least(0), limit(lambda value: value <= 1, "above 1", {})]},
    "torchvision.transforms": {"mean": list[FiniteFloat], "std": list[FiniteFloat],
                               "lambd": _function("it as a plug-in, under @TRANSFORMS.register")},
}


def library_mismatch(owner: Any, name: str, value: Any) -> str | None:
    """Why a value does not fit the argument `name` of `owner`; None if it fits, or is no library's."""
    module = getattr(owner, "__module__", "")
    known = next((arguments for begin, arguments in _ARGUMENTS.items() if module.startswith(begin)), {})
    return mismatch(value, known[name]) if name in known and value is not None else None
