"""Types of settings: what a value must be stands on its field, and text is read as the value.

A pydantic dataclass with fields of these types takes values as Python has them, or as a command
line gives them: ``"1e-6"``; ``"1.0,1.5"``; ``"0.5,1.0;1.0"`` for tuples of tuples; ``"None"``.
`override` replaces settings by name.
"""

import difflib
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from functools import partial
from operator import attrgetter
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from ribkit.runtime.errors import InputError
from ribkit.runtime.files import resolved

T = TypeVar("T")
FAULTS = {  # pydantic's name of an error in a value of the right type -> what is told of it
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be {ge:g} or more",
    "less_than_equal": "must be {le:g} or less",
    "finite_number": "must be finite",
    "too_short": "must be at least one value",
}


class MustBe(ValueError):
    """A value of the right type that cannot be used: ``must`` fits behind "must be".

    ``setting`` names the field, where the validator is one of the whole dataclass.
    """

    def __init__(self, must: str, setting: str = ""):
        super().__init__(f"must be {must}")
        self.setting = setting


def _must(be: str, test: Callable[[Any], bool]) -> AfterValidator:
    def check(value: Any) -> Any:
        if not test(value):
            raise MustBe(be)
        return value

    return AfterValidator(check)


def one_of(*names: str) -> AfterValidator:
    """The constraint that a text is one of some names."""
    return _must(f"one of {', '.join(names)}", names.__contains__)


def path_or(*names: str) -> AfterValidator:
    """A path, which is `resolved`; or empty, or one of some names."""
    kept = {"", *names}
    return AfterValidator(lambda value: value if value in kept else str(resolved(value)))


def _refuse_bool(value: Any) -> Any:
    """Refuse True and False, which pydantic would take as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("not a number")
    return value


def _split(value: Any, mark: str = ",") -> Any:
    if isinstance(value, str):
        return [part.strip() for part in value.split(mark) if part.strip()]
    return value


ORDERED = _must("the least and the greatest, in this order", lambda pair: pair[0] <= pair[1])
WITH_1 = _must("different scales with 1.0 among them", lambda s: 1.0 in s and len(set(s)) == len(s))

Integer = Annotated[int, BeforeValidator(_refuse_bool)]
Count = Annotated[Integer, Field(ge=1)]
CountOrZero = Annotated[Integer, Field(ge=0)]  # the field says what 0 means
Finite = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_refuse_bool)]
NotNegative = Annotated[Finite, Field(ge=0)]
Positive = Annotated[Finite, Field(gt=0)]
Share = Annotated[NotNegative, Field(le=1)]
Percentile = Annotated[Positive, Field(le=100)]
Listed = Annotated[tuple[T, ...], BeforeValidator(_split)]
Several = Annotated[Listed[T], Field(min_length=1)]
Range = Annotated[tuple[T, T], BeforeValidator(_split), ORDERED]
Scales = Annotated[Several[Positive], WITH_1]
ScaleSets = Annotated[
    tuple[Scales, ...], BeforeValidator(partial(_split, mark=";")), Field(min_length=1)
]
LongSide = Annotated[  # of an image, in pixels
    int | None,
    Field(ge=32),
    BeforeValidator(_refuse_bool),
    BeforeValidator(lambda value: None if value == "None" else value),
]


# ---- settings by name ---------------------------------------------------------------------------
def override(profile: T, given: Mapping[str, Any]) -> T:
    """A profile with some settings replaced, all of its values checked.

    Args:
        profile: a pydantic dataclass with a ``name``; a field may be one too, a group of settings.
        given: setting -> its value or its text; a setting of a group as ``group.setting``.

    Raises:
        InputError: for unknown settings, with the nearest name, and values that cannot be used.
    """
    types = _types(type(profile))
    values = {k: {**vars(v)} if is_dataclass(v) else v for k, v in vars(profile).items()}
    for setting, value in given.items():
        if setting not in types:
            meant = _nearest(setting, types)
            advice = f"did you mean {meant}" if meant else f"the settings are {', '.join(types)}"
            raise InputError(f"profile {profile.name} has no setting '{setting}'; {advice}.")
        group, _, part = setting.rpartition(".")
        (values[group] if group else values)[part] = value
    try:
        return type(profile)(**values)
    except ValidationError as error:
        raise InputError(*_explain(error, given, profile, types)) from None


def _nearest(setting: str, types: Mapping[str, Any]) -> str:
    """The setting of the nearest name; where that is only a part's, all groups' that have it."""
    parts = {name: name.rpartition(".")[2] for name in types}
    (nearest, *_) = [*difflib.get_close_matches(setting, [*types, *parts.values()], n=1), ""]
    if nearest in types:
        return nearest
    return " or ".join(name for name, part in parts.items() if part == nearest)


def _types(config: type) -> dict[str, Any]:
    """Setting -> its type, without constraints; a group's as ``group.setting``."""
    types = {}
    for name, kind in typing.get_type_hints(config).items():
        if is_dataclass(kind):
            types |= {f"{name}.{part}": inner for part, inner in _types(kind).items()}
        elif name != "name":
            types[name] = kind
    return types


def _explain(error: ValidationError, given: Mapping, profile: Any, types: dict) -> list[str]:
    """Pydantic's report as a sentence for each wrong setting: its value, what it must be."""
    sentences = {}
    for problem in error.errors(include_url=False):
        context = problem.get("ctx", {})
        raised = context.get("error")  # by a validator
        setting = ".".join(part for part in problem["loc"] if isinstance(part, str))
        if isinstance(raised, MustBe):
            setting = ".".join(filter(None, [setting, raised.setting]))
            fault = str(raised)
        elif problem["type"] in FAULTS:
            fault = FAULTS[problem["type"]].format(**context)
        else:
            fault = f"is not of type {inspect.formatannotation(types[setting])}"
        usual = attrgetter(setting)(profile)
        sentences.setdefault(
            setting,
            f"setting {setting}={given.get(setting, usual)!r} {fault}; "
            f"its value in profile {profile.name} is {usual!r}.",
        )
    return list(sentences.values())
