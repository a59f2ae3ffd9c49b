"""Typed settings of the study, by name: `mini`, the embedded default, `voc-lite`, and the paper's.

The rule by which everything that must fit the network is chosen (`Study.tune`): on *tuning images*,
 which are never scored, for CAM and for each RIB alike, by mIoU at the best
threshold there. First CAM's scales; then, with these, each RIB's rate, then its margin, then B,
each from the candidates below with the others kept, at first the first ones; of equals the first
wins. Where there is one candidate of each, as in `voc` and `coco`, nothing else is tried.
"""

import dataclasses
import difflib
import math
import types
import typing
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from ribkit.method.settings import VARIANTS, Settings
from ribkit.networks import classifier, deeplab
from ribkit.networks.architectures import Weights, imagenet_weights
from ribkit.networks.backbone import PRECISIONS
from ribkit.networks.classifier import BACKBONES
from ribkit.refinement import affinity
from ribkit.refinement.random_walk import WALKS
from ribkit.runtime.errors import InputError
from ribkit.study.ablations import Grid

# The paper's, for VOC
IRN = affinity.Training()
PSA = affinity.Training(stride=8, radius=5, epochs=8, batch=8, crop=448, weight_decay=5e-4)
DEEPLAB = deeplab.Training()
EVERYTHING = Grid()
DATA = ("scenes", "voc", "coco")
# Photographs without masks, on which nothing can be tuned: a rate at which an ImageNet head's maps
# visibly grow
PHOTOGRAPH_SETTINGS = Settings(pooling="gap", lr=1e-4, n_others=4, margin=1e9)
PHOTOGRAPH_SCALES = (0.5, 1.0)


@dataclass(frozen=True)
class Profile:
    """All settings of a run; the name of each can be given on the command line."""

    name: str
    # images
    data: str  # "scenes"; "voc": a folder in VOC layout; "coco": MS COCO 2014
    classes: tuple[
        str, ...
    ] = ()  # all others count as background; empty: every class of the folder
    train_split: str = "train"
    score_split: str = "train"
    train_images: int = 0  # how many; 0: all
    score_images: int = 0
    tune_images: int = 40  # of train_split, none of them scored
    label_split: str = ""  # pseudo ground truth is made of these too, for networks to learn from
    bank_images: int = 256  # of train_split: what the others of an adaptation are drawn from
    bank_side: int = 64  # and how wide they are seen, in pixels
    rng_seed: int = 0
    replicas: int = 3  # how often everything is trained, from as many seeds, for the claims
    # network and its training
    backbone: str = "small"
    weights: str = ""  # a ResNet's: a file of ImageNet weights; empty: torch's cache
    pretext_scenes: int = 0
    pretext_epochs: int = 0
    epochs: int = 5
    batch: int = 16
    lr: float = 0.1
    momentum: float = 1e-4
    crop: int = 64
    long_sides: tuple[int, int] = (64, 64)
    # maps
    long_side: int | None = None  # an image is seen this long at scale 1; None: as it is
    scale_sets: tuple[tuple[float, ...], ...] = ((1.0,), (0.5, 1.0, 1.5, 2.0))
    map_stride: int = 1  # maps are stored at ceil(size / stride); 4 as in the official code
    # adaptation
    steps: int = 10
    tau: float = 0.4
    area_ratio: float = 0.7
    lrs: tuple[float, ...] = (1e-5, 3e-5, 1e-4, 3e-4)
    margins: tuple[float, ...] = (0.0, 2.0, 4.0)  # times the unit; 0: no margin
    margin_unit: float = 0.0  # 1: margins are absolute; 0: CAM's mean target logit, measured
    n_others: tuple[int, ...] = (4, 8)
    precision: str = "float32"  # of the classifier's passes for maps; or "bfloat16"
    # refinement
    irn: affinity.Training = IRN
    psa: affinity.Training = PSA
    psa_alphas: tuple[float, ...] = (16.0,)  # of PSA's background; and how long it walks:
    psa_log2_steps: tuple[int, ...] = (8,)  # the best pair on the tuning images
    walk: str = "official"  # difference 10
    saliency: str = ""  # "u2netp", a folder of PNGs, "scenes" (`mini`); empty: none
    ablations: Grid = EVERYTHING
    # the segmentation network
    network: deeplab.Training = DEEPLAB
    network_backbone: str = "resnet101"
    test_scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5)
    val_split: str = "val"
    val_images: int = 0
    # the toy experiment
    toy_seeds: int = 5
    toy_train: int = 240
    toy_test: int = 100
    toy_steps: int = 100
    digits: str = ""  # a folder that has MNIST/raw; empty: scikit-learn's bundled digits

    def __post_init__(self):
        """Refuse values that make no sense. Raises InputError."""
        self._require("data", self.data in DATA, f"one of {', '.join(DATA)}")
        for name in (
            "replicas",
            "score_images",
            "tune_images",
            "bank_images",
            "batch",
            "crop",
            "steps",
        ):
            self._require(name, getattr(self, name) >= (name != "score_images"), "positive")
        for name in (
            "epochs",
            "toy_seeds",
            "toy_train",
            "toy_test",
            "toy_steps",
            "bank_side",
            "map_stride",
        ):
            self._require(name, getattr(self, name) >= 1, "positive")
        for name in (
            "lr",
            "lrs",
            "n_others",
            "margins",
            "margin_unit",
            "tau",
            "area_ratio",
            "momentum",
        ):
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
        for name in ("psa_alphas", "psa_log2_steps", "test_scales"):
            values = getattr(self, name)
            fits = bool(values) and all(0 < v < math.inf for v in values)
            self._require(name, fits, "positive, and at least one")
        scenes = self.saliency != "scenes" or self.data == "scenes"
        self._require("saliency", scenes, "u2netp or a folder where there are photographs")
        named = not self.weights or self.backbone.startswith("resnet")
        self._require("weights", named, "empty, unless backbone is resnet50 or resnet101")
        remaining_images = not self.label_split or self.data != "scenes"
        self._require("label_split", remaining_images, "empty where images are scenes")
        scales = self.ablations.scales
        self._require("ablations.scales", 1.0 in scales, "scales with 1.0 among them")
        for group in ("irn", "psa", "network", "ablations"):
            for part in dataclasses.fields(getattr(self, group)):
                self._require_numbers(f"{group}.{part.name}")
        for name, known in (
            ("precision", tuple(PRECISIONS)),
            ("backbone", BACKBONES),
            ("network_backbone", BACKBONES),
            ("walk", tuple(WALKS)),
        ):
            self._require(name, getattr(self, name) in known, f"one of {', '.join(known)}")

    def _require(self, name: str, fits: bool, words: str) -> None:
        if not fits:
            raise InputError(f"setting {name}={attrgetter(name)(self)!r} must be {words}.")

    def _require_numbers(self, name: str) -> None:
        """Counts are 1 or more (0 where it means none or all), others finite, not negative."""
        value = attrgetter(name)(self)
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, int) and not name.endswith(("seed", ".n_others", ".images")):
                self._require(name, one >= 1, "1 or more")
            elif isinstance(one, float):
                self._require(name, 0 <= one < math.inf, "finite and not negative")

    @property
    def training(self) -> classifier.Training:
        """How the classifier is trained."""
        names = {f.name for f in dataclasses.fields(classifier.Training)} & {
            f.name for f in dataclasses.fields(self)
        }
        return classifier.Training(**{name: getattr(self, name) for name in names})

    def imagenet_weights(self, backbone: str) -> Weights | None:
        """A backbone's ImageNet weights: the file that is named, if it is the classifier's."""
        return imagenet_weights(backbone, self.weights if backbone == self.backbone else "")

    def settings(self, pooling: str, variant: str, lr: float, margin: float, others: int):
        """An adaptation of this profile. margin: in units of the variant; see `Settings`."""
        return Settings(
            pooling=pooling,
            tau=self.tau,
            steps=self.steps,
            lr=lr,
            n_others=others,
            margin=margin,
            area_ratio=self.area_ratio,
            variant=VARIANTS[variant],
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
    lr=0.01,
    momentum=0.9,
    scale_sets=((1.0,), (1.0, 1.5), (0.5, 1.0, 1.5)),
    lrs=(1e-6, 3e-6, 1e-5, 3e-5, 1e-4),
    margins=(0.0, 3.0),
    n_others=(4,),
    irn=affinity.Training(
        stride=2, radius=5, epochs=10, batch=16, momentum=0.9, scales=(0.75, 1.25), crop=64
    ),
    psa=affinity.Training(
        stride=4, radius=5, epochs=10, batch=16, momentum=0.9, scales=(0.75, 1.25), crop=64
    ),
    psa_alphas=(4.0, 8.0, 16.0, 32.0),
    psa_log2_steps=(4, 6, 8),
    saliency="scenes",
    ablations=Grid(
        images=32,
        taus=(0.1, 0.3, 0.5, 0.7, 0.9),
        steps=(2, 5, 20),
        lrs=(0.1, 0.3, 3.0, 10.0),
        margins=(0.0, 2.0, 6.0),
        n_others=(0, 2, 8, 20),
    ),
    network=deeplab.Training(
        aspp_rates=(1, 2, 4, 6), iterations=200, lr=5e-4, scales=(0.75, 1.25), crop=64
    ),
    network_backbone="small",
    test_scales=(1.0,),
    val_images=120,
)
VOC_LITE = Profile(
    name="voc-lite",
    data="voc",
    classes=ANIMALS,
    train_split="train_aug",
    score_split="train",
    tune_images=16,
    replicas=1,
    backbone="efficientnet_lite0",
    epochs=2,
    lr=0.01,
    momentum=0.9,
    crop=192,
    long_sides=(192, 320),
    long_side=256,
    bank_side=160,
    scale_sets=((1.0,), (0.5, 1.0)),
    lrs=(1e-5, 4e-5, 1.6e-4),
    margins=(0.0, 3.0),
    n_others=(4,),
    irn=affinity.Training(epochs=10, batch=8, momentum=0.9, crop=192),
    psa=affinity.Training(
        stride=8, radius=5, epochs=10, batch=8, momentum=0.9, weight_decay=5e-4, crop=192
    ),
    psa_alphas=(4.0, 8.0, 16.0),
    psa_log2_steps=(4, 6, 8),
    network=deeplab.Training(
        aspp_rates=(3, 6, 9, 12), iterations=300, lr=5e-4, batch=8, crop=192, scales=(0.75, 1.5)
    ),
    network_backbone="efficientnet_lite0",
    test_scales=(0.75, 1.0, 1.25),
)
VOC = Profile(
    name="voc",
    data="voc",
    train_split="train_aug",
    score_split="train",
    label_split="train_aug",
    tune_images=100,
    bank_images=512,
    bank_side=512,
    replicas=1,
    backbone="resnet50",
    crop=512,
    long_sides=(320, 640),
    scale_sets=((0.5, 1.0, 1.5, 2.0),),
    map_stride=4,
    lrs=(8e-6,),
    margins=(600.0,),
    margin_unit=1.0,
    n_others=(20,),
    precision="bfloat16",
    ablations=Grid(
        images=200,
        taus=(0.1, 0.3, 0.5, 0.7, 0.9),
        steps=(2, 5),
        lrs=(0.3, 3.0),
        margins=(0.0, 2.0),
        n_others=(0, 5),
    ),
)
COCO = replace(
    VOC,
    name="coco",
    data="coco",
    train_split="train",
    score_images=5000,
    label_split="train",
    tune_images=400,
    tau=0.5,
    area_ratio=0.8,
    lrs=(5e-6,),
    margins=(1000.0,),
    n_others=(15,),
    network=replace(DEEPLAB, iterations=100_000, lr=2e-4, crop=481),
)
PROFILES = {profile.name: profile for profile in (MINI, VOC_LITE, VOC, COCO)}


def load(name: str, overrides: dict[str, Any] | None = None) -> Profile:
    """The profile ``name`` with some settings replaced.

    overrides: setting -> value, or its text (``"1e-6"``, ``"1.0,1.5"``). Raises InputError for an
    unknown profile or setting, and for a value of another type.
    """
    if name not in PROFILES:
        raise InputError(f"profile '{name}' is unknown; use one of {', '.join(PROFILES)}.")
    kinds = setting_kinds()
    profile, changes = PROFILES[name], {}
    for key, value in (overrides or {}).items():
        if key not in kinds:
            close = difflib.get_close_matches(key, kinds, n=1)
            advice = f"did you mean {close[0]}" if close else f"the settings are {', '.join(kinds)}"
            raise InputError(f"profile {name} has no setting '{key}'; {advice}.")
        try:
            converted = convert(value, kinds[key])
        except (TypeError, ValueError):
            raise InputError(
                f"setting {key}={value!r} is not of type {_words(kinds[key])}; "
                f"its value in profile {name} is {attrgetter(key)(PROFILES[name])!r}."
            ) from None
        group, _, part = key.rpartition(".")
        if group:
            whole = changes.get(group, getattr(profile, group))
            part, converted = group, replace(whole, **{part: converted})
        changes[part] = converted
    return replace(profile, **changes)


def setting_kinds() -> dict[str, Any]:
    """Every setting that can be given, with its type; those of a group as ``group.setting``."""
    kinds = {}
    for key, kind in typing.get_type_hints(Profile).items():
        if dataclasses.is_dataclass(kind):
            kinds |= {f"{key}.{part}": k for part, k in typing.get_type_hints(kind).items()}
        elif key != "name":
            kinds[key] = kind
    return kinds


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
