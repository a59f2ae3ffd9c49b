"""Typed settings of the study, by name: `mini`, the embedded default, and `voc-lite`.

The rule by which everything that must fit the network is chosen (`select` in `ribkit.study`): on
*tuning images*, which are never scored, for CAM and for each RIB alike, by mIoU at the best
threshold there. First CAM's scales; then, with these, each RIB's rate, then its margin, then B,
each from the candidates below with the others kept; the first of equals wins.
"""

import dataclasses
import difflib
import math
import types
import typing
from dataclasses import dataclass
from typing import Any

from ribkit import adaptation
from ribkit.classifier import BACKBONES, Training
from ribkit.errors import InputError


@dataclass(frozen=True)
class Profile:
    """All settings of a run; the name of each can be given on the command line."""

    name: str
    # images
    data: str  # "scenes", or "voc": a folder in VOC layout
    classes: tuple[
        str, ...
    ] = ()  # all others count as background; empty: every class of the folder
    train_split: str = "train"
    score_split: str = "train"
    train_images: int = 0  # how many; 0: all
    score_images: int = 0
    tune_images: int = 40  # of train_split, none of them scored
    pool_images: int = 256  # of train_split: what the others of an adaptation are drawn from
    pool_side: int = 64  # and how wide they are seen, in pixels
    seed: int = 0
    # network and its training
    backbone: str = "small"
    weights: str = ""  # resnet50: a file of ImageNet weights; empty: torch's cache
    pretext_scenes: int = 0
    pretext_epochs: int = 0
    epochs: int = 5
    batch: int = 16
    rate: float = 0.1
    momentum: float = 1e-4
    crop: int = 64
    long_sides: tuple[int, int] = (64, 64)
    # maps
    long_side: int | None = None  # an image is seen this long at scale 1; None: as it is
    scale_sets: tuple[tuple[float, ...], ...] = ((1.0,), (0.5, 1.0, 1.5, 2.0))
    # adaptation
    steps: int = 10
    tau: float = 0.4
    area_ratio: float = 0.7
    rates: tuple[float, ...] = (1e-5, 3e-5, 1e-4, 3e-4)
    margins: tuple[float, ...] = (0.0, 2.0, 4.0)  # times CAM's mean target logit; 0: no margin
    others: tuple[int, ...] = (4, 8)
    # the toy experiment
    toy_seeds: int = 5
    toy_train: int = 240
    toy_test: int = 100
    toy_steps: int = 100
    digits: str = ""  # a folder that has MNIST/raw; empty: scikit-learn's bundled digits

    def __post_init__(self):
        """Refuse values that make no sense. Raises InputError."""
        for name in ("score_images", "tune_images", "pool_images", "batch", "crop", "steps"):
            self._require(name, getattr(self, name) >= (name != "score_images"), "positive")
        for name in ("epochs", "toy_seeds", "toy_train", "toy_test", "toy_steps", "pool_side"):
            self._require(name, getattr(self, name) >= 1, "positive")
        for name in ("rate", "rates", "others", "margins", "tau", "area_ratio", "momentum"):
            values = getattr(self, name)
            values = values if isinstance(values, tuple) else (values,)
            fits = bool(values) and all(0 <= v < math.inf for v in values)
            self._require(name, fits, "finite, not negative, and at least one")
        for name, least in (("train_images", self.batch), ("long_side", 32)):
            value = getattr(self, name)
            self._require(name, not value or value >= least, f"at least {least}")
        scales = bool(self.scale_sets) and all(1.0 in scales for scales in self.scale_sets)
        self._require("scale_sets", scales, "sets of scales with 1.0 in each")
        low, high = self.long_sides
        self._require("long_sides", 0 < low <= high, "least and greatest")
        self._require("backbone", self.backbone in BACKBONES, f"one of {', '.join(BACKBONES)}")

    def _require(self, name: str, fits: bool, words: str) -> None:
        if not fits:
            raise InputError(f"setting {name}={getattr(self, name)!r} must be {words}.")

    @property
    def training(self) -> Training:
        """How the classifier is trained."""
        names = {f.name for f in dataclasses.fields(Training)} & {
            f.name for f in dataclasses.fields(self)
        }
        return Training(**{name: getattr(self, name) for name in names})

    def settings(self, pooling: str, variant: str, rate: float, margin: float, others: int):
        """An adaptation of this profile. margin: in units of the variant; see `Settings`."""
        return adaptation.Settings(
            pooling=pooling,
            tau=self.tau,
            steps=self.steps,
            rate=rate,
            others=others,
            margin=margin,
            area_ratio=self.area_ratio,
            variant=adaptation.VARIANTS[variant],
        )


ANIMALS = ("cat", "cow", "dog", "horse", "sheep")
MINI = Profile(
    name="mini",
    data="scenes",
    train_images=1500,
    score_images=120,
    tune_images=24,
    pretext_scenes=3000,
    pretext_epochs=10,
    epochs=3,
    rate=0.01,
    momentum=0.9,
    scale_sets=((1.0,), (1.0, 1.5), (0.5, 1.0, 1.5)),
    rates=(1e-6, 3e-6, 1e-5, 3e-5, 1e-4),
    margins=(0.0, 3.0),
)
VOC_LITE = Profile(
    name="voc-lite",
    data="voc",
    classes=ANIMALS,
    train_split="train_aug",
    score_split="train",
    tune_images=16,
    backbone="efficientnet_lite0",
    epochs=2,
    rate=0.01,
    momentum=0.9,
    crop=192,
    long_sides=(192, 320),
    long_side=256,
    pool_side=160,
    scale_sets=((1.0,), (0.5, 1.0)),
    rates=(1e-5, 4e-5, 1.6e-4),
    margins=(0.0, 3.0),
    others=(4,),
)
PROFILES = {profile.name: profile for profile in (MINI, VOC_LITE)}


def load(name: str, overrides: dict[str, Any] | None = None) -> Profile:
    """The profile ``name`` with some settings replaced.

    overrides: setting -> value, or its text (``"1e-6"``, ``"1.0,1.5"``). Raises InputError for an
    unknown profile or setting, and for a value of another type.
    """
    if name not in PROFILES:
        raise InputError(f"profile '{name}' is unknown; use one of {', '.join(PROFILES)}.")
    hints = typing.get_type_hints(Profile)
    changes = {}
    for key, value in (overrides or {}).items():
        if key not in hints or key == "name":
            close = difflib.get_close_matches(key, hints, n=1)
            advice = f"did you mean {close[0]}" if close else f"the settings are {', '.join(hints)}"
            raise InputError(f"profile {name} has no setting '{key}'; {advice}.")
        try:
            changes[key] = convert(value, hints[key])
        except (TypeError, ValueError):
            raise InputError(
                f"setting {key}={value!r} is not of type {_words(hints[key])}; "
                f"its value in profile {name} is {getattr(PROFILES[name], key)!r}."
            ) from None
    return dataclasses.replace(PROFILES[name], **changes)


def convert(value: Any, kind: Any) -> Any:
    """A value, or its text, as ``kind``; tuples separated by ``,``, tuples of them by ``;``."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        if value is None or value == "None":
            return None
        return convert(value, arguments[0])
    if origin is tuple:
        inner = arguments[0]
        if isinstance(value, str):
            mark = ";" if typing.get_origin(inner) is tuple else ","
            value = [part.strip() for part in value.split(mark) if part.strip()]
        items = tuple(convert(v, inner) for v in value)
        if len(arguments) == 2 and arguments[1] is not Ellipsis and len(items) != len(arguments):
            raise ValueError(value)
        return items
    if kind is str:
        if not isinstance(value, str):
            raise TypeError(value)
        return value
    if isinstance(value, bool) or (kind is int and isinstance(value, float) and value % 1):
        raise TypeError(value)
    return kind(value)


def _words(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind)) if typing.get_origin(kind) is None else str(kind)
