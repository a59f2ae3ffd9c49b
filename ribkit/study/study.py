"""The study's stages and how they hang together: what the notebooks call, one method a stage.

Each method returns stored results and computes what is missing, so any notebook runs alone, and all
of them share one store. Data flows one way: images -> classifier -> seeds -> scores -> claims.
"""

import copy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from ribkit.data import coco, digits, photographs, scenes, voc
from ribkit.data.digits import Digits
from ribkit.data.images import ImageSet
from ribkit.evaluation import miou, thresholds
from ribkit.evaluation.thresholds import Swept
from ribkit.method.settings import OFFICIAL, Settings
from ribkit.networks import architectures, classifier
from ribkit.refinement import saliency
from ribkit.runtime.errors import InputError, Problems
from ribkit.runtime.keys import describe
from ribkit.runtime.parallel import map_images
from ribkit.runtime.store import Result, Store
from ribkit.study import maps as seeds
from ribkit.study import profiles
from ribkit.study import toy as bottleneck
from ribkit.study.ablations import NO_MARGIN

ROOT = Path(__file__).parents[2]
PART = 5000  # images of one stored result, at most
NEEDED = {
    "voc": "a folder in VOC layout; name it: make reproduce PROFILE={} DATA=path/to/VOC2012",
    "coco": "MS COCO 2014; name its folder: make reproduce PROFILE={} DATA=path/to/coco",
}
PICTURED = "efficientnet_lite0"  # the network that photographs are shown with
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
    into `thresholds.THRESHOLDS`."""

    method: Method
    maps: Result
    swept: Swept
    oracle: int
    held_out: int

    def at(self, choice: str) -> np.ndarray:
        """Counts ``(N, 3, n)`` at the threshold chosen: ``oracle`` or ``held-out``."""
        return self.swept.at(self.oracle if choice == "oracle" else self.held_out)


class Study:
    """One run of the study: a profile, its images, and the store.

    profile: a name in `profiles.PROFILES`. data: a folder in VOC layout, or of
    MS COCO 2014.
    overrides: settings of the profile by name. Raises InputError for any of them that is wrong.
    """

    def __init__(self, profile: str = "mini", data: str = "", overrides: dict | None = None):
        if not isinstance(overrides or {}, dict):
            raise InputError(f"overrides={overrides!r} must be a dictionary, setting -> value.")
        self.profile = profiles.load(profile, overrides)
        self.folder = (
            ROOT / "build" / (self.profile.name if not overrides else f"{profile}-changed")
        )
        self.store = Store(ROOT / "build" / "store")
        if self.profile.data in NEEDED and not data:
            raise InputError(
                f"profile {profile} needs {NEEDED[self.profile.data].format(profile)}."
            )
        self._given = (ROOT / data).resolve() if data else None
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

    @cached_property
    def data(self) -> Path | None:
        """The folder in VOC layout that images are read from; COCO is converted to one, once."""
        if self.profile.data == "coco":
            return coco.as_voc(self._given, ROOT / "build" / "data")
        return self._given

    def check(self) -> str:
        """Read all input; say in a few words what there is. InputError: all that is wrong."""
        p, problems = self.profile, Problems()
        if p.data != "scenes":
            self._check_folder(problems)
        if p.saliency not in ("", "scenes"):
            problems.collect(saliency.ready, p.saliency)
            for images in problems.collect(lambda: (self.scored, *self.remaining_images)) or ():
                problems.collect(saliency.check, images, p.saliency)
        for network in dict.fromkeys((p.backbone, p.network_backbone, PICTURED)):
            file = problems.collect(p.imagenet_weights, network)
            problems.collect(architectures.ready, network, file)
        problems.collect(photographs.shipped)
        problems.collect(self.digits)
        problems.tell()
        counts, remaining_images = (
            (p.score_images, p.train_images, p.tune_images, len(scenes.CLASSES)),
            "",
        )
        if p.data != "scenes":
            parts = (self.scored, self.train, self.tuning, self.scored.classes)
            counts = tuple(len(part) for part in parts)
            if p.label_split:
                remaining_images = f"{sum(map(len, self.further))} further to make labels for, "
        words = (
            "{} images to score, {} to train on, {} to tune on, " + remaining_images + "{} classes"
        )
        return f"{p.name}: {words.format(*counts)}"

    def _check_folder(self, problems: Problems) -> None:
        """Read images, masks and labels; what is wrong goes to ``problems``."""
        p = self.profile
        if not problems.collect(lambda: self.data):
            return
        splits = {p.train_split, p.score_split, p.val_split, p.label_split} - {""}
        problems.collect(voc.check, self.data, sorted(splits), p.classes)
        problems.collect(self._split, p.val_split)
        problems.collect(lambda: (self.scored, self.train, self.tuning))

    def inputs(self) -> list:
        """What the study reads, for a key; scenes are made by the code, from the profile."""
        p, parts = self.profile, []
        if p.data != "scenes":
            parts = [self.train, self.tuning, self.scored, *self.remaining_images, self.validation]
        if p.saliency not in ("", "scenes", "u2netp"):
            labelled = (self.scored, *self.remaining_images)
            parts += [saliency.Folder(p.saliency, images.ids) for images in labelled]
        parts += [p.imagenet_weights(backbone) for backbone in (p.backbone, p.network_backbone)]
        return [describe(part) for part in (*parts, self.digits(), p)]

    # ---- images -------------------------------------------------------------------------------
    @cached_property
    def train(self) -> ImageSet:
        """Images that the classifier is trained on; the scored ones may be among them (VOC)."""
        if self.profile.data == "scenes":
            return scenes.generate(self.stream(1), self.profile.train_images)
        return some(
            self._split(self.profile.train_split), self.profile.train_images, self.profile.rng_seed
        )

    @cached_property
    def scored(self) -> ImageSet:
        """Images whose seeds are scored."""
        if self.profile.data == "scenes":
            return scenes.generate(self.stream(2), self.profile.score_images)
        return some(
            self._split(self.profile.score_split), self.profile.score_images, self.profile.rng_seed
        )

    @cached_property
    def tuning(self) -> ImageSet:
        """Images that settings and held-out thresholds are chosen on; never scored."""
        count = self.profile.tune_images
        if self.profile.data == "scenes":
            return scenes.generate(self.stream(3), count)
        split = self._split(self.profile.train_split)
        scored = set(self.scored.ids)
        free = [
            i for i, name in enumerate(split.ids) if name not in scored and split.labels[i].any()
        ]
        if len(free) < count:
            raise InputError(
                f"{self.data}/ImageSets/Segmentation/{self.profile.train_split}.txt has "
                f"{len(free)} images that are not scored, and tune_images={count} are needed: "
                "set score_images to fewer, or tune_images."
            )
        return some(split.take(free), count, self.profile.rng_seed)

    @cached_property
    def remaining_images(self) -> tuple[ImageSet, ...]:
        """Images of `label_split` neither scored nor tuned on, `PART` at a time; none without it.

        Pseudo ground truth is made of them too. A segmentation network learns from the scored and
        from these: tuning images stay out of its training.
        """
        if not self.profile.label_split:
            return ()
        split = self._split(self.profile.label_split)
        taken = {*self.scored.ids, *self.tuning.ids}
        left = [i for i, name in enumerate(split.ids) if name not in taken]
        return tuple(split.take(left[k : k + PART]) for k in range(0, len(left), PART))

    @cached_property
    def validation(self) -> ImageSet:
        """Images that segmentation networks are scored on, seen by nothing before."""
        p = self.profile
        if p.data == "scenes":
            return scenes.generate(self.stream(4), p.val_images)
        return some(self._split(p.val_split), p.val_images, p.rng_seed)

    def _split(self, name: str) -> ImageSet:
        images = voc.read(self.data, name, self.profile.classes)
        shown = np.flatnonzero(images.labels.any(axis=1))
        if not len(shown):
            raise InputError(
                f"{voc.list_path(self.data, name)} lists no image that shows one of the classes "
                f"({', '.join(images.classes)}); set classes to others."
            )
        return images.take(shown)

    def stream(self, number: int) -> int:
        """The seed of one of the study's sets of scenes."""
        return 1000 * self.profile.rng_seed + number

    # ---- RQ1 ----------------------------------------------------------------------------------
    def digits(self) -> Digits:
        """2 and 8 with their shapes: MNIST if the profile names a folder, else the bundled ones."""
        p = self.profile
        return digits.load(p.digits, p.toy_train, p.toy_test, p.rng_seed)

    def toy(self) -> Result:
        """The toy experiment: high gradient ratios of digits and shapes, layer by layer."""
        p = self.profile
        return self.store.run(
            "toy",
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
            "pretext",
            classifier.pretrain,
            scenes=scenes.Pretext(self.stream(0), p.pretext_scenes),
            epochs=p.pretext_epochs,
            rng_seed=p.rng_seed,
        )

    @cached_property
    def classifier(self) -> Result:
        """The classifier, trained with BCE on image labels; all replicas' side by side."""
        every = {study.number: study for study in (*self.first.replicas, self)}.values()
        missing = [study for study in every if not self.store.has(**study.training())]
        if missing:
            map_images(_classifier, missing, "classifiers")
        return self.store.run(**self.training())

    def training(self) -> dict:
        """The stage that trains the classifier, for `Store.run`."""
        p = self.profile
        return {
            "name": "classifier",
            "stage": classifier.train,
            "backbone": p.backbone,
            "pretext": self.pretext if p.backbone == "small" else None,
            "weights": p.imagenet_weights(p.backbone),
            "images": self.train,
            "watched": self.tuning,
            "training": replace(p.training, rng_seed=self.training_seed),
        }

    @cached_property
    def model(self) -> seeds.Model:
        """The trained classifier, as seeds need it."""
        p = self.profile
        count, file = len(self.train.classes), p.imagenet_weights(p.backbone)
        return seeds.Model(self.classifier, p.backbone, count, p.precision, file)

    # ---- seeds --------------------------------------------------------------------------------
    def pool(self) -> Result:
        """Frozen features of the images that adaptations draw their others from."""
        images = some(self.train, self.profile.bank_images, self.profile.rng_seed)
        return self.store.run(
            "pool",
            seeds.feature_bank,
            model=self.model,
            images=images,
            long_sides=self.profile.long_sides,
            side=self.profile.bank_side,
            rng_seed=self.profile.rng_seed,
        )

    def maps(self, images: ImageSet, scales: tuple, settings: Settings | None) -> Result:
        """Seeds of a set of images: CAM without settings, else RIB."""
        return self.store.run(
            "seeds",
            seeds.compute,
            model=self.model,
            images=images,
            scales=scales,
            long_side=self.profile.long_side,
            settings=settings,
            pool=self.pool() if settings else None,
            rng_seed=self.profile.rng_seed,
            map_stride=self.profile.map_stride,
        )

    def swept(self, images: ImageSet, maps: Result) -> Swept:
        """How seeds fit at all thresholds."""
        result = self.store.run("score", seeds.score, images=images, seeds=maps)
        return Swept(len(images), len(images.classes) + 1, **result.arrays("rows"))

    def _tried(self, scales: tuple, settings: Settings | None) -> dict:
        """mIoU at the best threshold on the tuning images, and that threshold's index."""
        total = self.swept(self.tuning, self.maps(self.tuning, scales, settings)).total()
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
        maps = self.maps(self.scored, self.scales, settings)
        swept = self.swept(self.scored, maps)
        held_out = round(100 * self._tried(self.scales, settings)["threshold"])
        return Seed(method, maps, swept, thresholds.best_threshold(swept.total()), held_out)

    def coverage(self, method: Method) -> pd.DataFrame:
        """`mini`: coverage of heads and bodies by a method's maps, at its held-out threshold."""
        seed = self.seed(method)
        threshold = seed.held_out / 100
        return self.store.run(
            "coverage", seeds.cover, images=self.scored, seeds=seed.maps, threshold=threshold
        ).table("coverage")

    # ---- pictures of the process --------------------------------------------------------------
    def growth(self, method: Method, count: int = 3) -> tuple[ImageSet, Result]:
        """The first scored images, and their maps through a method's process."""
        images = self.scored.take(range(min(count, len(self.scored))))
        settings = self.tune(method)[1]
        return images, self._grow(self.model, images, self.scales, settings, self.pool())

    def photographs(self) -> tuple[ImageSet, Result]:
        """Shipped photographs, and their maps through the process, with the ImageNet head.

        Nothing is tuned nor scored here: the settings are those of `ribkit.compare`.
        """
        every = photographs.shipped_labelled(photographs.categories())
        images = every.take([every.ids.index(name) for name in PHOTOGRAPHS])
        file = architectures.imagenet_weights(PICTURED)
        network = self.store.run("imagenet", classifier.imagenet, backbone=PICTURED, weights=file)
        model = seeds.Model(network, PICTURED, len(images.classes), file=file)
        view = {"long_sides": (320, 320), "side": 224, "rng_seed": self.profile.rng_seed}
        pool = self.store.run("pool", seeds.feature_bank, model=model, images=images, **view)
        return images, self._grow(
            model, images, profiles.PHOTOGRAPH_SCALES, profiles.PHOTOGRAPH_SETTINGS, pool
        )

    def _grow(self, model, images, scales, settings, pool) -> Result:
        return self.store.run(
            "growth",
            seeds.growth,
            model=model,
            images=images,
            scales=scales,
            long_side=self.profile.long_side,
            settings=settings,
            pool=pool,
            rng_seed=self.profile.rng_seed,
        )


def _classifier(study: Study) -> Result:
    return study.store.run(**study.training())


def some(images: ImageSet, count: int, rng_seed: int) -> ImageSet:
    """``count`` of the images, drawn by the seed, in their old order; all of them if 0 or fewer."""
    if count == 0 or count >= len(images):
        return images
    chosen = np.random.default_rng(rng_seed).permutation(len(images))[:count]
    return images.take(np.sort(chosen))
