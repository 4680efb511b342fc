"""Reads `sweep.parameters` of a config into a Space, and finds what is wrong with it."""
from collections.abc import Iterator, Mapping
from typing import Any

from tools.sweep.space import Parameter, Space
from utils.config.annotations import FiniteFloat, PositiveFloat, mismatch
from utils.config.sections import SECTIONS
from utils.config.signature import UnknownKey
from utils.config.suggestions import suggest_name
from utils.config.syntax import format_value
from utils.config.values import is_same
from utils.errors import Fault, WrongValue

_KEYS = ("from", "to", "scale", "step", "values", "when")
_PATH = ("sweep", "parameters")
_FIXED = {"name": "all trials are kept in saved/<name>/",
          "trainer.args.monitor": "trials are compared by it, or by sweep.monitor"}


def read_space(section: Any) -> tuple[Space, list[Fault]]:
    """The space that `sweep.parameters` describes, and its faults; with faults it may lack parameters."""
    if not isinstance(section, Mapping):
        return Space(), [WrongValue(_PATH, "a table is needed, such as {optimizer.args.lr: [0.1, 0.01]}; "
                                           f"this is {format_value(section)}")]
    found = [(parameter, faults) for parameter, faults in map(_parameter, section, section.values())]
    faults = [fault for _, own in found for fault in own]
    parameters = {parameter.key: parameter for parameter, _ in found}
    for parameter in parameters.values():
        faults += _condition_faults(parameter, parameters)
    if faults:
        return Space(), faults
    return _ordered(parameters)


def _parameter(key: Any, written: Any) -> tuple[Parameter, list[Fault]]:
    """A parameter and its faults, with paths from the config's top."""
    key, path = str(key), (*_PATH, key)
    faults = list(_key_faults(key, path))
    if isinstance(written, list):
        return Parameter(key, tuple(written)), [*faults, *_choice_faults(written, path)]
    if not isinstance(written, Mapping):
        wrong = f"a list of choices or a range {{from: 1, to: 10}} is needed; this is {format_value(written)}"
        return Parameter(key), [*faults, WrongValue(path, wrong)]
    when = {} if written.get("when") is None else written["when"]
    faults += [UnknownKey.of((*path, name), "is unknown here.", _KEYS, f"There are: {', '.join(_KEYS)}.")
               for name in written if name not in _KEYS]
    if not isinstance(when, Mapping):
        faults.append(WrongValue((*path, "when"), "values of other parameters are needed, such as "
                                                  f"{{optimizer.type: SGD}}; this is {format_value(when)}"))
        when = {}
    if "values" in written:
        mixed = [name for name in ("from", "to", "scale", "step") if name in written]
        faults += [Fault((*path, name), "is for a range, and these are choices. Leave it out.")
                   for name in mixed]
        faults += _choice_faults(written["values"], (*path, "values"))
        values = written["values"] if isinstance(written["values"], list) else ()
        return Parameter(key, tuple(values), when=when), faults
    own = list(_range_faults(written, path))
    return (Parameter(key, (), when=when) if own else _range(key, written, when)), [*faults, *own]


def _range(key: str, written: Mapping, when: Mapping) -> Parameter:
    low, high, step = written["from"], written["to"], written.get("step")
    whole = all(type(value) is int for value in (low, high, step) if value is not None)
    if not whole:
        low, high = float(low), float(high)
    return Parameter(key, None, low, high, written.get("scale") == "log", step, whole, when)


def _key_faults(key: str, path: tuple) -> Iterator[Fault]:
    section = key.split(".")[0]
    if section not in SECTIONS:
        near = suggest_name(section, SECTIONS).strip() or f"Sections: {', '.join(SECTIONS)}."
        yield UnknownKey.of(path, f"there is no section {section!r}.", [], near)
    elif key in _FIXED:
        yield Fault(path, f"cannot be a parameter: {_FIXED[key]}.")
    elif not all(key.split(".")):
        yield WrongValue(path, "is no key of a config. A key looks like optimizer.args.lr.")


def _choice_faults(values: Any, path: tuple) -> Iterator[Fault]:
    if not isinstance(values, list) or not values:
        yield WrongValue(path, f"a list of choices is needed; this is {format_value(values)}")
        return
    for number, value in enumerate(values):
        if any(is_same(value, other) for other in values[:number]):
            yield Fault((*path, number), f"{format_value(value)} stands in the list twice. Keep one of them.")


def _range_faults(written: Mapping, path: tuple) -> Iterator[Fault]:
    wrong = {"from": FiniteFloat, "to": FiniteFloat, "step": PositiveFloat}
    wrong = {name: text for name, kind in wrong.items() if written.get(name) is not None
             and (text := mismatch(written[name], kind) or mismatch(written[name], FiniteFloat))}
    missing = [name for name in ("from", "to") if written.get(name) is None]
    for name in missing:
        yield Fault((*path, name), "is missing. A range is {from: 1e-4, to: 0.3, scale: log}; choices are a "
                                   "list.")
    yield from (WrongValue((*path, name), text) for name, text in wrong.items())
    yield from _scale_faults(written, path)
    if not missing and not wrong:
        yield from _order_faults(written, path)


def _scale_faults(written: Mapping, path: tuple) -> Iterator[Fault]:
    scale = written.get("scale", "linear")
    if scale not in ("log", "linear"):
        yield WrongValue((*path, "scale"), f"{format_value(scale)} is neither log nor linear."
                         + suggest_name(scale, ("log", "linear")))
    if scale == "log" and written.get("step") is not None:
        yield Fault((*path, "step"), "does not go with scale: log. Write a list of values, or leave it out.")


def _order_faults(written: Mapping, path: tuple) -> Iterator[Fault]:
    low, high = written["from"], written["to"]
    if low > high:
        yield WrongValue((*path, "from"), f"{low} is above {high}. Exchange the two.")
    if written.get("scale") == "log" and low <= 0:
        yield WrongValue((*path, "from"), f"{low} has no logarithm. With scale: log it is above 0.")


def _condition_faults(parameter: Parameter, parameters: Mapping[str, Parameter]) -> Iterator[Fault]:
    for key, value in parameter.when.items():
        path, other = (*_PATH, parameter.key, "when", key), parameters.get(key)
        if other is None or other is parameter:
            others = [name for name in parameters if name != parameter.key]
            yield UnknownKey.of(path, "is no other parameter of this sweep.", others,
                                f"There are: {', '.join(others) or 'none'}.")
        elif other.values and not any(is_same(value, choice) for choice in other.values):
            yield WrongValue(path, f"{format_value(value)} is none of its choices: "
                                   f"{', '.join(map(format_value, other.values))}.")


def _needs(later: Parameter, earlier: Parameter) -> bool:
    """Whether a parameter is chosen, and set, after another one."""
    block = earlier.key.removesuffix("type")
    of_block = earlier.key.endswith(".type") and later.key.startswith(f"{block}args.")
    return earlier.key in later.when or later.key.startswith(f"{earlier.key}.") or of_block


def _ordered(parameters: Mapping[str, Parameter]) -> tuple[Space, list[Fault]]:
    """The parameters, each after the parameters that it needs, else as written. A fault for a circle."""
    waiting, ordered = list(parameters.values()), []
    while waiting:
        ready = next((parameter for parameter in waiting if not any(
            _needs(parameter, other) for other in waiting if other is not parameter)), None)
        if ready is None:
            return Space(), [Fault((*_PATH, waiting[0].key, "when"), "depends on itself, by way of "
                                   f"{', '.join(parameter.key for parameter in waiting[1:])}.")]
        ordered.append(ready)
        waiting.remove(ready)
    return Space(tuple(ordered)), []
