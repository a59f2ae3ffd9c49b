"""Typed settings of the study. Their values in each profile stand in ``profiles.toml``.

What must fit network and images is chosen on *tuning images*, which are never scored, by the one
rule of `ribkit.evaluation.tuning`, by each replica for itself. CAM chooses among `scale_sets`,
`smoothings` and `percentiles`, in this order, and what it chose holds for every method. A rival
(`ribkit.method.rivals`) chooses its own of the last two, or of `norms`; each RIB among `lrs`,
`margins` and `n_others`; IRN's walk among `irn_log2_steps`, `irn_betas` and `irn_radii`, and PSA's
among `psa_alphas` and `psa_log2_steps`, for each method's maps. Each list starts with what is
most careful; those of rates, smoothings, norms and alphas go on beyond their ends. A list of one
leaves nothing to choose: so it is in `voc` and `coco`.

How many tuning images: paired differences of RIB and CAM spread by about 7 points over the square
root of their number (`mini`, 24 scenes, rates of 1e-6 to 3e-5): 200 have half a point of error.
The 80 of `mini-large` and the 64 of `voc-lite` have 0.5 and 0.7 between a rate and the best (the
median of column error, RIB official, GNDRP, in their ``tuning.csv``): enough to see a gain of 1.1
to 1.4, at a third of the time.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from ribkit.data.scenes import USUAL_TEXTURE
from ribkit.method.settings import NO_MARGIN, VARIANTS, Settings
from ribkit.networks.architectures import Weights, imagenet_weights
from ribkit.networks.backbone import PRECISIONS
from ribkit.networks.configs import BACKBONES, AffinityConfig, ClassifierConfig, DeepLabConfig
from ribkit.refinement.random_walk import WALKS
from ribkit.runtime.errors import InputError
from ribkit.runtime.settings import (
    Count,
    CountOrZero,
    Listed,
    LongSide,
    MustBe,
    NotNegative,
    Percentile,
    Positive,
    Scales,
    ScaleSets,
    Several,
    Share,
    one_of,
    override,
    path_or,
)

Backbone = Annotated[str, one_of(*BACKBONES)]
# Photographs without masks, on which nothing can be tuned: a rate at which an ImageNet head's maps
# visibly grow
PHOTOGRAPH_SETTINGS = Settings(pooling="gap", lr=1e-4, n_others=4, margin=NO_MARGIN)
PHOTOGRAPH_SCALES = (0.5, 1.0)


@dataclass(frozen=True, config={"extra": "forbid"})
class Grid:
    """What the ablations try, one thing at a time; see `ablation_runs.grid`."""

    images: CountOrZero = 0  # of the scored ones; 0: all
    scales: Scales = (1.0,)
    taus: Listed[Share] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    steps: Listed[Count] = (1, 2, 5, 10, 20)
    lrs: Listed[NotNegative] = (0.1, 0.3, 1.0, 3.0, 10.0)  # times the chosen one
    margins: Listed[NotNegative] = (0.0, 2.0, 4.0, 8.0)  # times CAM's mean target logit; 0: none
    n_others: Listed[CountOrZero] = (0, 2, 4, 10, 20)
    usual_textures: Listed[Share] = ()  # of other scenes: RIB's gain by what bodies tell


@dataclass(frozen=True, config={"extra": "forbid"})
class Profile:
    """All settings of a run; the name of each can be given on the command line."""

    name: str
    # images
    # a folder in VOC layout; MS COCO 2014; a folder of photographs without masks (`ribkit.label`)
    data: Annotated[str, one_of("scenes", "voc", "coco", "folder")]
    classes: Listed[str] = ()  # all others count as background; empty: every class of the folder
    train_split: str = "train"
    score_split: str = "train"
    train_images: CountOrZero = 0  # how many; 0: all
    score_images: CountOrZero = 0
    tune_images: Count = 40  # of train_split, none of them scored
    usual_texture: Share = USUAL_TEXTURE  # of scenes: how much bodies tell of their class
    label_split: str = ""  # pseudo ground truth is made of these too, for networks to learn from
    bank_images: Count = 256  # of train_split: what the others of an adaptation are drawn from
    bank_side: Count = 64  # and how wide they are seen, in pixels
    rng_seed: CountOrZero = 0
    replicas: Count = 3  # how often everything is trained, from as many seeds, for the claims
    variant_replicas: CountOrZero = (
        0  # of these, on how many the paper's variants are tried; 0: all
    )
    # network and its training
    backbone: Backbone = "small"
    weights: Annotated[str, path_or()] = (
        ""  # a ResNet's: a file of ImageNet weights; empty: torch's cache
    )
    pretext_scenes: CountOrZero = 0
    pretext_epochs: CountOrZero = 0
    pretext_seeds: Count = 1  # how often the pretext task is learned; replicas take them in turns
    classifier: ClassifierConfig = ClassifierConfig(crop=64, long_sides=(64, 64))
    # maps
    long_side: LongSide = None  # of an image as it is seen at scale 1; None: as it is
    scale_sets: ScaleSets = ((1.0,), (0.5, 1.0, 1.5, 2.0))
    smoothings: Several[NotNegative] = (0.0,)  # of CAM's maps, shares of the longer side; 0: none
    percentiles: Several[Percentile] = (100.0,)  # that become 1 in CAM's maps; 100: the maximum
    norms: Listed[Positive] = ()  # how much of the features' norm a rival adds to CAM's maps
    map_stride: Count = 1  # maps are stored at ceil(size / stride); 4 as in the official code
    # adaptation
    steps: Count = 10
    tau: Share = 0.4
    area_ratio: NotNegative = 0.7  # above 1: no adaptation stops by its area
    lrs: Several[NotNegative] = (1e-5, 3e-5, 1e-4, 3e-4)
    margins: Several[NotNegative] = (0.0, 2.0, 4.0)  # times the unit; 0: no margin
    margin_unit: NotNegative = 0.0  # 1: margins are absolute; 0: CAM's mean target logit, measured
    n_others: Several[CountOrZero] = (4, 8)
    precision: Annotated[str, one_of(*PRECISIONS)] = "float32"  # of the passes that make maps
    # refinement
    irn: AffinityConfig = AffinityConfig()
    psa: AffinityConfig = AffinityConfig(  # PSA's own, for VOC
        stride=8, radius=5, epochs=8, batch=8, crop=448, weight_decay=5e-4
    )
    irn_log2_steps: Several[Count] = (8,)  # of IRN's walk
    irn_betas: Several[Positive] = (10.0,)
    irn_radii: Several[Count] = (5,)  # in positions of IRN's grid
    psa_alphas: Several[Positive] = (16.0,)  # of PSA's background
    psa_log2_steps: Several[Count] = (8,)  # of PSA's walk
    walk: Annotated[str, one_of(*WALKS)] = "official"  # difference 10
    # a folder of PNGs, "u2netp" or "scenes" (`mini`); empty: none
    saliency: Annotated[str, path_or("u2netp", "scenes")] = ""
    ablations: Grid = Grid()  # what notebook 06 tries, and on how many images
    # the segmentation network
    network: DeepLabConfig = DeepLabConfig()
    network_backbone: Backbone = "resnet101"
    test_scales: Several[Positive] = (0.5, 0.75, 1.0, 1.25, 1.5)
    crf_min_score: Share = 0.0  # labels that stay below it all over an image miss the CRF; 0: none
    val_split: str = "val"
    val_images: CountOrZero = 0  # 0: all
    # the toy experiment
    toy_seeds: Count = 5
    toy_train: Count = 240
    toy_test: Count = 100
    toy_steps: Count = 100
    toy_doses: Listed[Share] = (0.3, 0.5, 1.0)  # of images with a shape, beside the paper's 0.1
    toy_masks: Several[Share] = (0.25, 0.5)  # of an image's pixels that the masking test blanks
    toy_dose_seeds: Count = 3  # of the other doses
    digits: Annotated[str, path_or()] = (
        ""  # a folder that has MNIST/raw; empty: scikit-learn's bundled digits
    )

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        scenes = self.data == "scenes"
        if 0 < self.train_images < (batch := self.classifier.batch):
            raise MustBe(f"at least {batch}, one batch (or 0: all images)", "train_images")
        for group in ("classifier", "irn", "psa", "network"):
            if getattr(self, group).rng_seed:
                raise MustBe("0, as all seeds follow from rng_seed", f"{group}.rng_seed")
        if self.saliency == "scenes" and not scenes:
            raise MustBe("u2netp or a folder where there are photographs", "saliency")
        if self.weights and not self.backbone.startswith("resnet"):
            raise MustBe("empty, unless backbone is resnet50 or resnet101", "weights")
        if self.label_split and scenes:
            raise MustBe("empty where images are scenes", "label_split")
        for name in ("train_images", "score_images", "val_images") if scenes else ():
            if not getattr(self, name):
                raise MustBe("1 or more where images are scenes, of which there is no end", name)
        for name in ("pretext_scenes", "pretext_epochs") if self.learns_pretext else ():
            if not getattr(self, name):
                raise MustBe("1 or more where a backbone is small, which learns from them", name)
        for name in ("lrs", "smoothings", "norms", "psa_alphas"):  # which go on beyond their ends
            if list(getattr(self, name)) != sorted(set(getattr(self, name))):
                raise MustBe("in ascending order, the most careful first, each once", name)
        return self

    @property
    def learns_pretext(self) -> bool:
        """Whether a backbone is small, which learns from scenes where others know ImageNet."""
        return "small" in (self.backbone, self.network_backbone)

    def imagenet_weights(self, backbone: str) -> Weights | None:
        """A backbone's ImageNet weights: the file that is named, if it is the classifier's."""
        return imagenet_weights(backbone, self.weights if backbone == self.backbone else "")

    def settings(
        self, pooling: str, variant: str, lr: float, margin: float, n_others: int
    ) -> Settings:
        """An adaptation of this profile; variant: one of `VARIANTS`."""
        chosen = {"lr": lr, "margin": margin, "n_others": n_others}
        given = {"tau": self.tau, "steps": self.steps, "area_ratio": self.area_ratio}
        return Settings(pooling=pooling, variant=VARIANTS[variant], **chosen, **given)


PATHS = ("weights", "saliency", "digits")


def _read() -> dict[str, Profile]:
    """The profiles; a folder that one names lies in the repository, wherever the user stands."""
    here = Path(__file__)
    tables = tomllib.loads(here.with_name("profiles.toml").read_text())
    for name, table in tables.items():
        tables[name] = tables.get(table.pop("like", None), {}) | table
        if "digits" in table:
            tables[name]["digits"] = str(here.parents[2] / table["digits"])
    return {name: Profile(name=name, **table) for name, table in tables.items()}


PROFILES = _read()


def load(name: str, overrides: dict[str, Any] | None = None) -> Profile:
    """The profile of this name, with some settings replaced as `settings.override` does it.

    Raises InputError for an unknown profile or setting, and for values that cannot be used.
    """
    if name not in PROFILES:
        raise InputError(f"profile '{name}' is unknown; use one of {', '.join(PROFILES)}.")
    return override(PROFILES[name], overrides or {})
