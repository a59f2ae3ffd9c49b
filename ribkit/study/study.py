"""The study's stages and how they hang together: what the notebooks call, one method a stage.

Each method returns stored results and computes what is missing, so any notebook runs alone, and all
of them share one store. Data flows one way: images -> classifier -> seeds -> scores -> claims.
"""

import copy
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import pandas as pd

from ribkit.data import photographs, scenes
from ribkit.data.images import ImageSet
from ribkit.evaluation import miou, thresholds
from ribkit.evaluation.thresholds import Swept
from ribkit.method.settings import NO_MARGIN, OFFICIAL, Settings
from ribkit.networks import architectures, classifier
from ribkit.networks.trained import TrainedModel
from ribkit.runtime.errors import InputError
from ribkit.runtime.files import safe_name
from ribkit.runtime.store import Result, Store, StoredArrays, StoredTensors
from ribkit.study import maps, profiles
from ribkit.study import toy as bottleneck
from ribkit.study.inputs import PICTURED, ROOT, Inputs, some
from ribkit.study.profiles import Profile

PHOTOGRAPHS = ("chelsea.png", "coffee.png", "camera.png", "flower.jpg")  # with free licences


@dataclass(frozen=True)
class Method:
    """A way to make seeds. variant and pooling are empty for plain CAM."""

    title: str
    variant: str = ""
    pooling: str = ""


CAM = Method("CAM")
RIBS = tuple(
    Method(f"RIB {variant}, {pooling.upper()}", variant, pooling)
    for variant in ("paper", "official")
    for pooling in ("gap", "gndrp")
)
METHODS = (CAM, *RIBS)
RIB = RIBS[-1]  # the authors' own: official, GNDRP


@dataclass(frozen=True)
class Seed:
    """Seeds of the scored images. swept: how they fit at all thresholds; oracle, held_out: indices
    into `miou.THRESHOLDS`."""

    method: Method
    maps: Result
    swept: Swept
    oracle: int
    held_out: int

    def at(self, choice: str) -> np.ndarray:
        """Counts ``(N, 3, n)`` at the threshold chosen: ``oracle`` or ``held-out``."""
        return self.swept.at(self.oracle if choice == "oracle" else self.held_out)


class Study(Inputs):
    """One run of the study: a profile, its images, and the store.

    profile: a name in `profiles.PROFILES`, or settings. data: a folder in VOC layout, or of
    MS COCO 2014. overrides: settings of the profile by name. Raises InputError for any of them that
    is wrong.
    """

    def __init__(
        self, profile: str | Profile = "mini", data: str = "", overrides: dict | None = None
    ):
        if not isinstance(overrides or {}, dict):
            raise InputError(f"overrides={overrides!r} must be a dictionary, setting -> value.")
        if isinstance(profile, str):
            profile = profiles.load(profile, overrides)
        super().__init__(profile, data)
        changes = ",".join(f"{name}={value}" for name, value in sorted((overrides or {}).items()))
        self.folder = ROOT / "build" / safe_name("-".join(filter(None, [profile.name, changes])))
        self.store = Store(ROOT / "build" / "store")
        self.first, self.number = self, 0

    # ---- replicas -----------------------------------------------------------------------------
    def replica(self, number: int) -> "Study":
        """The same study, everything in it trained from another seed (0: this one).

        Images, scales and settings are the first's; thresholds are chosen anew.
        """
        if number == self.number:
            return self
        other = copy.copy(self)
        for name in ("classifier", "model"):
            other.__dict__.pop(name, None)
        other.number = number
        return other

    @cached_property
    def replicas(self) -> tuple["Study", ...]:
        """As many as the profile says, the first first."""
        return tuple(self.replica(number) for number in range(self.profile.replicas))

    @property
    def training_seed(self) -> int:
        """What everything that is trained is seeded with."""
        return self.profile.rng_seed + self.number

    # ---- RQ1 ----------------------------------------------------------------------------------
    def toy(self) -> Result:
        """The toy experiment: high gradient ratios of digits and shapes, layer by layer."""
        p = self.profile
        return self.store.run(
            bottleneck.experiment,
            digits=self.digits(),
            seeds=tuple(range(p.toy_seeds)),
            steps=p.toy_steps,
        )

    # ---- the classifier -----------------------------------------------------------------------
    @property
    def pretext(self) -> Result:
        """`mini`: the small network's pretext task."""
        p = self.profile
        return self.store.run(
            classifier.pretrain,
            scenes=scenes.Pretext(self.stream(0), p.pretext_scenes),
            epochs=p.pretext_epochs,
            rng_seed=p.rng_seed,
        )

    def pretext_of(self, backbone: str) -> StoredTensors | None:
        """The pretext task's weights for ``small``; other backbones start from ImageNet's."""
        return self.pretext.tensors("weights") if backbone == "small" else None

    @cached_property
    def classifier(self) -> Result:
        """The classifier, trained with BCE on image labels; all replicas' side by side."""
        return self.train_classifiers()[self.number]

    def train_classifiers(self) -> list[Result]:
        """The classifiers of all replicas, by their number."""
        studies = [
            self.first.replica(k) for k in range(max(self.profile.replicas, self.number + 1))
        ]
        return self.store.run_all([study.training() for study in studies], "classifiers")

    def training(self) -> partial:
        """The stage that trains the classifier, with what it needs."""
        p = self.profile
        return partial(
            classifier.train,
            backbone=p.backbone,
            pretext=self.pretext_of(p.backbone),
            weights=p.imagenet_weights(p.backbone),
            images=self.train,
            monitor_images=self.tuning,
            training=replace(p.training, rng_seed=self.training_seed),
        )

    @cached_property
    def model(self) -> TrainedModel:
        """The trained classifier, as seeds need it."""
        p, weights = self.profile, self.classifier.tensors("weights")
        count, file = len(self.train.classes), p.imagenet_weights(p.backbone)
        return _classifier(p.backbone, count, p.precision, file, weights)

    # ---- seeds --------------------------------------------------------------------------------
    def bank(self) -> StoredTensors:
        """Frozen features of the images that adaptations draw their others from."""
        p = self.profile
        return self.store.run(
            maps.feature_bank,
            model=self.model,
            images=some(self.train, p.bank_images, p.rng_seed),
            long_sides=p.long_sides,
            side=p.bank_side,
            rng_seed=p.rng_seed,
        ).tensors("features")

    def maps(self, images: ImageSet, scales: tuple, settings: Settings | None) -> Result:
        """Seeds of a set of images: CAM without settings, else RIB."""
        p = self.profile
        how = {"model": self.model, "images": images, "scales": scales}
        how |= {"long_side": p.long_side, "map_stride": p.map_stride}
        if settings is None:
            return self.store.run(maps.cam_seeds, **how)
        adapted = {"settings": settings, "bank": self.bank(), "rng_seed": p.rng_seed}
        return self.store.run(maps.rib_seeds, **how, **adapted)

    def swept(self, images: ImageSet, seeds: StoredArrays) -> Swept:
        """How seeds fit at all thresholds."""
        rows = self.store.run(maps.score, images=images, maps=seeds).arrays("rows")
        return Swept(len(images), len(images.classes) + 1, **rows)

    def _tried(self, scales: tuple, settings: Settings | None) -> dict:
        """mIoU at the best threshold on the tuning images, and that threshold's index."""
        total = self.swept(
            self.tuning, self.maps(self.tuning, scales, settings).arrays("maps")
        ).total()
        index = thresholds.best_threshold(total)
        return {
            "miou": miou.miou(total[index]),
            "threshold": thresholds.THRESHOLDS[index],
        }

    @cached_property
    def scales(self) -> tuple[float, ...]:
        """CAM's best scales on the tuning images; RIB uses the same."""
        if self.first is not self:
            return self.first.scales
        return max(self.profile.scale_sets, key=lambda s: self._tried(s, None)["miou"])

    def tried_scales(self) -> pd.DataFrame:
        """CAM on the tuning images with each set of scales, a row each."""
        rows = [
            {"method": CAM.title, "stage": "scales", "scales": ", ".join(map(str, scales))}
            | self._tried(scales, None)
            | {"chosen": scales == self.scales}
            for scales in self.profile.scale_sets
        ]
        return pd.DataFrame(rows)

    def tune(self, method: Method) -> tuple[pd.DataFrame, Settings]:
        """What was tried for a RIB on the tuning images, a row each, and the settings chosen.

        The rule stands in `ribkit.study.profiles`.
        """
        if self.first is not self:
            return self.first.tune(method)
        p = self.profile
        rows: list[dict] = []

        def attempt(stage: str, lr: float, factor: float, others: int, unit: float) -> None:
            margin = factor * unit if factor else NO_MARGIN
            settings = p.settings(method.pooling, method.variant, lr, margin, others)
            if all(row["settings"] != settings for row in rows):
                row = {"method": method.title, "stage": stage, "lr": lr, "margin": factor}
                row |= {"n_others": others, "settings": settings}
                rows.append(row | self._tried(self.scales, settings))

        def best() -> dict:
            return max(rows, key=lambda row: row["miou"])

        unit = p.margin_unit or self.margin_unit(method)
        for lr in p.lrs:
            attempt("lr", lr, p.margins[0], p.n_others[0], unit)
        for factor in p.margins:
            attempt("margin", best()["lr"], factor, p.n_others[0], unit)
        for others in p.n_others:
            attempt("n_others", best()["lr"], best()["margin"], others, unit)
        table = pd.DataFrame(rows).drop(columns="settings")
        table["chosen"] = [row is best() for row in rows]
        return table, best()["settings"]

    def margin_rows(self, scales: tuple[float, ...]) -> float:
        """Over how many rows and target classes `official` sums an image's logits, on average."""
        half = OFFICIAL.loss_on_half_scale
        rows = 2 * sum(scale >= 1 or half for scale in scales)
        return rows * float(self.tuning.labels.sum(axis=1).mean())

    def margin_unit(self, method: Method) -> float:
        """CAM's mean target logit (GAP); `official` sums it over rows and classes.

        Read at step 0 of the GAP adaptation with the first rate, which is tried anyway.
        """
        p = self.profile
        settings = p.settings("gap", method.variant, p.lrs[0], NO_MARGIN, p.n_others[0])
        images = self.maps(self.tuning, self.scales, settings).table("images")
        mean = float(images["logit_first"].mean())
        if settings.variant.clamp_at_margin:
            return mean
        return mean * self.margin_rows(self.scales)

    def seed(self, method: Method) -> Seed:
        """Seeds of the scored images by a method with the settings chosen for it."""
        settings = self.tune(method)[1] if method.pooling else None
        result = self.maps(self.scored, self.scales, settings)
        swept = self.swept(self.scored, result.arrays("maps"))
        held_out = round(100 * self._tried(self.scales, settings)["threshold"])
        return Seed(method, result, swept, thresholds.best_threshold(swept.total()), held_out)

    def coverage(self, method: Method) -> pd.DataFrame:
        """`mini`: coverage of heads and bodies by a method's maps, at its held-out threshold."""
        seed = self.seed(method)
        covered = seed.maps.arrays("maps")
        return self.store.run(
            maps.cover, images=self.scored, maps=covered, threshold=seed.held_out / 100
        ).table("coverage")

    # ---- pictures of the process --------------------------------------------------------------
    def growth(self, method: Method, count: int = 3) -> tuple[ImageSet, Result]:
        """The first scored images, and their maps through a method's process."""
        images = self.scored.take(range(min(count, len(self.scored))))
        settings = self.tune(method)[1]
        return images, self._grow(self.model, images, self.scales, settings, self.bank())

    def photographs(self) -> tuple[ImageSet, Result]:
        """Shipped photographs, and their maps through the process, with the ImageNet head.

        Nothing is tuned nor scored here: the settings are those of `ribkit.compare`.
        """
        every = photographs.shipped_labelled()
        images = every.take([every.ids.index(name) for name in PHOTOGRAPHS])
        file = architectures.imagenet_weights(PICTURED)
        network = self.store.run(classifier.imagenet, backbone=PICTURED, weights=file)
        weights = network.tensors("weights")
        model = _classifier(PICTURED, len(images.classes), "float32", file, weights)
        view = {"long_sides": (320, 320), "side": 224, "rng_seed": self.profile.rng_seed}
        bank = self.store.run(maps.feature_bank, model=model, images=images, **view)
        settings = profiles.PHOTOGRAPH_SETTINGS
        return images, self._grow(
            model, images, profiles.PHOTOGRAPH_SCALES, settings, bank.tensors("features")
        )

    def _grow(self, model, images, scales, settings, bank) -> Result:
        return self.store.run(
            maps.growth,
            model=model,
            images=images,
            scales=scales,
            long_side=self.profile.long_side,
            settings=settings,
            bank=bank,
            rng_seed=self.profile.rng_seed,
        )


def _classifier(backbone, n_classes, precision, file, weights: StoredTensors) -> TrainedModel:
    names = ("backbone", "n_classes", "precision", "weights")
    options = tuple(zip(names, (backbone, n_classes, precision, file), strict=True))
    return TrainedModel(classifier.trained_network, options, weights)
