"""The study's stages and how they hang together: what the notebooks call, one method a stage.

Each method returns stored results and computes what is missing, so any notebook runs alone, and all
of them share one store. Data flows one way: images -> classifier -> seeds -> scores -> claims.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd

from ribkit.data import photographs, scenes
from ribkit.data.digits import SHARE
from ribkit.data.images import ImageSet
from ribkit.evaluation import thresholds, tuning
from ribkit.evaluation.thresholds import Swept
from ribkit.evaluation.tuning import Axis, Tuned
from ribkit.method.rivals import Rival
from ribkit.method.settings import NO_MARGIN, OFFICIAL, Settings
from ribkit.networks import architectures, classifier
from ribkit.networks.configs import TrainingConfig
from ribkit.networks.trained import TrainedModel
from ribkit.runtime.errors import InputError
from ribkit.runtime.files import safe_name
from ribkit.runtime.store import Result, Store, StoredArrays, StoredTensors
from ribkit.study import coverage, maps, mask_free, profiles, toy, toy_masking
from ribkit.study.inputs import PICTURED, ROOT, Inputs, first
from ribkit.study.maps import Adaptation, Sizes
from ribkit.study.profiles import PHOTOGRAPH_SCALES, PHOTOGRAPH_SETTINGS, Profile

PHOTOGRAPHS = ("chelsea.png", "coffee.png", "camera.png", "flower.jpg")  # with free licences


@dataclass(frozen=True)
class Method:
    """A way to make seeds: a RIB has a variant and a pooling, a rival what it changes of CAM."""

    title: str
    variant: str = ""
    pooling: str = ""
    rival: str = ""  # a field of `Rival`

    @property
    def short(self) -> str:
        """CAM or RIB, where there is one of each."""
        return self.title.split(" ")[0]


CAM = Method("CAM")
RIBS = tuple(
    Method(f"RIB {variant}, {pooling.upper()}", variant, pooling)
    for variant in ("paper", "official")
    for pooling in ("gap", "gndrp")
)
RIB = RIBS[-1]  # as the authors' code has it: official, GNDRP
RIVALS = {  # what it changes -> the rival
    "smoothing": Method("CAM, smoothed", rival="smoothing"),
    "percentile": Method("CAM, percentile", rival="percentile"),
    "norm": Method("CAM + feature norm", rival="norm"),
}


@dataclass(frozen=True)
class Seed:
    """Seeds of the scored images."""

    maps: Result
    swept: Swept  # how they fit at all thresholds
    chosen: Mapping[str, int]  # of these: "oracle", of the same images; "held-out"; "mask-free"

    def at(self, choice: str) -> np.ndarray:
        """Counts ``(N, 3, n)`` at the threshold chosen."""
        return self.swept.at(self.chosen[choice])

    def threshold(self, choice: str) -> float:
        return float(thresholds.THRESHOLDS[self.chosen[choice]])


class Study(Inputs):
    """One run of the study: a profile, its images, and the store.

    Args:
        profile: A name in `profiles.PROFILES`, or settings.
        data: A folder in VOC layout, or of MS COCO 2014.
        overrides: Settings of the profile by name; paths among them are kept absolute, for the
            processes that are given them.

    Raises:
        InputError: One of them is wrong.
    """

    def __init__(
        self, profile: str | Profile = "mini", data: str = "", overrides: dict | None = None
    ):
        overrides = overrides or {}
        if not isinstance(overrides, dict):
            raise InputError(f"overrides={overrides!r} must be a dictionary, setting -> value.")
        if overrides and not isinstance(profile, str):
            raise InputError(
                f"overrides={overrides!r} change a profile that is named; change this one."
            )
        if isinstance(profile, str):
            profile = profiles.load(profile, overrides)
        super().__init__(profile, data)
        paths = {name: getattr(profile, name) for name in profiles.PATHS if name in overrides}
        self.overrides = overrides | paths
        changes = ",".join(f"{name}={value}" for name, value in sorted(self.overrides.items()))
        self.folder = ROOT / "build" / safe_name("-".join(filter(None, [profile.name, changes])))
        self.store = Store(ROOT / "build" / "store")
        self.first, self.number = self, 0
        self._tuned: dict[Method, Tuned] = {}

    # ---- replicas -----------------------------------------------------------------------------
    @property
    def replicas(self) -> tuple["Study", ...]:
        """The same study as often as the profile says, all trained from other seeds; itself first.

        Images are the first's; settings, scales and thresholds are chosen anew.
        """
        return self.first._replicas

    @cached_property
    def _replicas(self) -> tuple["Study", ...]:
        others = [copy.copy(self) for _ in range(1, self.profile.replicas)]
        for number, other in enumerate(others, start=1):
            other.number, other._tuned = number, {}
        return self, *others

    def like(self, **changes: Any) -> "Study":
        """This training of the same study, with other settings of its profile."""
        other = Study(replace(self.profile, **changes), str(self.given or ""))
        other.store = self.store
        return other.replicas[self.number]

    def replicas_of(self, method: Method) -> tuple["Study", ...]:
        """The replicas that a method is tried on: all, but perhaps for the paper's variants."""
        fewer = self.profile.variant_replicas if method.variant == "paper" else 0
        return self.replicas[: fewer or None]

    @property
    def training_seed(self) -> int:
        """What everything that is trained is seeded with."""
        return self.profile.rng_seed + self.number

    def training_of(
        self, stage: Callable, config: TrainingConfig, backbone: str, **learned: Any
    ) -> partial:
        """The call that trains this replica of a network; learned: what it learns from."""
        return partial(
            stage,
            backbone=backbone,
            pretext=self.pretext_of(backbone),
            weights=self.profile.imagenet_weights(backbone),
            training=replace(config, rng_seed=self.training_seed),
            **learned,
        )

    # ---- RQ1 ----------------------------------------------------------------------------------
    def toy(self) -> Result:
        """The toy experiment: high gradient ratios of digits and shapes, layer by layer."""
        how = {"seeds": tuple(range(self.profile.toy_seeds)), "steps": self.profile.toy_steps}
        return self.store.run(toy.experiment, digits=self.digits(), **how)

    def toy_doses(self) -> dict[float, Result]:
        """The toy experiment by the share of training images that have their shape.

        Other shares than the paper's with the sigmoid alone.
        """
        p = self.profile
        how = {"activations": ("sigmoid",), "controls": ("random shapes",), "steps": p.toy_steps}
        how["seeds"] = tuple(range(p.toy_dose_seeds))
        digits = {dose: self.digits(dose) for dose in p.toy_doses if dose != SHARE}
        calls = [partial(toy.experiment, digits=part, **how) for part in digits.values()]
        others = self.store.run_all(calls, "doses of the shape")
        return {SHARE: self.toy()} | dict(zip(digits, others, strict=True))

    def toy_masking(self) -> pd.DataFrame:
        """The masking test: accuracies of networks trained anew, over all seeds of the toy."""
        p = self.profile
        how = {"digits": self.digits(), "steps": p.toy_steps, "shares": p.toy_masks}
        seeds = range(p.toy_seeds)
        calls = [partial(toy_masking.masking, rng_seed=seed, **how) for seed in seeds]
        found = self.store.run_all(calls, "masking tests")
        return pd.concat([one.table("accuracies") for one in found], ignore_index=True)

    # ---- the classifier -----------------------------------------------------------------------
    @property
    def pretext(self) -> Result:
        """`mini`: the small network's pretext task; replicas take turns with its seeds.

        With both threads, one after another: side by side, with one, its bytes would be others.
        """
        p = self.profile
        how = {"epochs": p.pretext_epochs, "rng_seed": p.rng_seed + self.number % p.pretext_seeds}
        images = scenes.Pretext(self.stream(0), p.pretext_scenes)
        return self.store.run(classifier.pretrain, scenes=images, **how)

    def pretext_of(self, backbone: str) -> StoredTensors | None:
        """The pretext task's weights for ``small``; other backbones start from ImageNet's."""
        return self.pretext.tensors("weights") if backbone == "small" else None

    def training(self) -> partial:
        """The call that trains the classifier, with BCE on image labels."""
        p, images = self.profile, {"images": self.train, "monitor_images": self.tuning}
        return self.training_of(classifier.train, p.classifier, p.backbone, **images)

    @cached_property
    def classifiers(self) -> list[Result]:
        return self.store.run_all([one.training() for one in self.replicas], "classifiers")

    @property
    def classifier(self) -> Result:
        """The trained classifier; all replicas' are trained side by side."""
        return self.first.classifiers[self.number]

    @property
    def model(self) -> TrainedModel:
        """The trained classifier, as seeds need it."""
        p = self.profile
        return TrainedModel.of(
            classifier.trained_network,
            self.classifier.tensors("weights"),
            backbone=p.backbone,
            n_classes=len(self.train.classes),
            precision=p.precision,
            weights=p.imagenet_weights(p.backbone),
        )

    # ---- seeds --------------------------------------------------------------------------------
    def bank(self) -> StoredTensors:
        """Frozen features of the images that adaptations draw their others from."""
        p = self.profile
        return self._bank(self.model, self.others, p.classifier.long_sides, p.bank_side)

    def _bank(
        self, model: TrainedModel, images: ImageSet, long_sides: tuple[int, int], side: int
    ) -> StoredTensors:
        view = {"long_sides": long_sides, "side": side, "rng_seed": self.profile.rng_seed}
        bank = self.store.run(maps.feature_bank, model=model, images=images, **view)
        return bank.tensors("features")

    def maps(self, images: ImageSet, scales: tuple, settings: Settings | None) -> Result:
        """Maps of a set of images: CAM without settings, else RIB."""
        sizes = Sizes(scales, self.profile.long_side, self.profile.map_stride)
        seen = {"model": self.model, "images": images, "sizes": sizes}
        if settings is None:
            return self.store.run(maps.cam_seeds, **seen)
        return self.store.run(maps.rib_seeds, **seen, adaptation=self.adaptation(settings))

    def adaptation(self, settings: Settings | None) -> Adaptation | None:
        """How a RIB with these settings adapts the classifier; None: CAM, which adapts nothing."""
        if settings is None:
            return None
        return Adaptation(settings, self.bank(), self.profile.rng_seed)

    def seeds(self, method: Method, *sets: ImageSet) -> list[StoredArrays]:
        """Maps of sets of images by a method with the settings chosen for it."""
        chosen = self.tuned(method).chosen
        return [self._maps(method, images, chosen).arrays("maps") for images in sets]

    def adaptations(self, method: Method) -> pd.DataFrame:
        """How a RIB's adaptations of the scored images went: a row each, see `maps.rib_seeds`."""
        return self.maps(self.scored, self.scales, self.settings(method)).table("images")

    def _maps(self, method: Method, images: ImageSet, chosen: Mapping[str, Any]) -> Result:
        """Maps of a set of images by a method with one candidate of each of its settings.

        Scales, smoothing and percentile are CAM's, but for a rival's own: what differs from CAM is
        the method.
        """
        settings = self._settings(method, chosen) if method.pooling else None
        every = chosen if method == CAM else self.tuned(CAM).chosen | chosen
        raw = self.maps(images, every["scales"], settings)
        rival = Rival(**{f.name: every[f.name] for f in fields(Rival) if f.name in every})
        if rival == Rival():
            return raw
        sizes = Sizes(every["scales"], self.profile.long_side, self.profile.map_stride)
        norms = self.store.run(maps.feature_norms, model=self.model, images=images, sizes=sizes)
        both = {"maps": raw.arrays("maps"), "norm": norms.arrays("norm")}
        return self.store.run(maps.rival_seeds, images=images, **both, rival=rival)

    def swept(self, images: ImageSet, seeds: StoredArrays) -> Swept:
        rows = self.store.run(maps.score, images=images, maps=seeds).arrays("rows")
        return Swept(len(images), len(images.classes) + 1, **rows)

    # ---- what is chosen on the tuning images --------------------------------------------------
    @property
    def rivals(self) -> tuple[Method, ...]:
        """The rivals of which the profile has candidates."""
        return tuple(rival for rival in RIVALS.values() if self._changing(rival).values)

    @property
    def methods(self) -> tuple[Method, ...]:
        """All ways to make seeds, CAM first."""
        return CAM, *self.rivals, *RIBS

    def tuned(self, method: Method) -> Tuned:
        """What was tried for a method on the tuning images, and what was chosen.

        The rule stands in `ribkit.evaluation.tuning`, what is tried in `ribkit.study.profiles`.
        """
        if method not in self._tuned:
            score = partial(self._tried, method)
            self._tuned[method] = tuning.search(self._axes(method), score)
        return self._tuned[method]

    def _axes(self, method: Method) -> list[Axis]:
        p = self.profile
        if method.pooling:
            return [
                Axis("lr", p.lrs, goes_on=True),
                Axis("margin", p.margins),
                Axis("n_others", p.n_others),
            ]
        if method.rival:
            return [self._changing(method)]
        return [Axis("scales", p.scale_sets), *map(self._axis, ("smoothing", "percentile"))]

    def _axis(self, name: str) -> Axis:
        """Candidates of a change of CAM's maps, see `Rival`; the limit is what changes nothing."""
        values, unchanged = getattr(self.profile, f"{name}s"), getattr(Rival(), name)
        return Axis(name, values, goes_on=name != "percentile", limit=unchanged)

    def _changing(self, rival: Method) -> Axis:
        """A rival's candidates: the same, but for what changes nothing."""
        axis = self._axis(rival.rival)
        return replace(axis, values=tuple(each for each in axis.values if each != axis.limit))

    def _tried(self, method: Method, chosen: Mapping[str, Any]) -> tuple[np.ndarray, float]:
        return self.best(self.tuning, self._maps(method, self.tuning, chosen).arrays("maps"))

    def best(self, images: ImageSet, seeds: StoredArrays) -> tuple[np.ndarray, float]:
        """Counts of maps at the threshold that is best on these images, and that one."""
        swept = self.swept(images, seeds)
        index = thresholds.best_threshold(swept.total())
        return swept.at(index), float(thresholds.THRESHOLDS[index])

    @property
    def scales(self) -> tuple[float, ...]:
        """CAM's scales, which are every method's."""
        return self.tuned(CAM).chosen["scales"]

    def settings(self, method: Method) -> Settings:
        """What was chosen for a RIB."""
        return self._settings(method, self.tuned(method).chosen)

    def _settings(self, method: Method, chosen: Mapping[str, Any]) -> Settings:
        """An adaptation with these candidates; a margin is so many units, and 0 is none."""
        p, margin = self.profile, NO_MARGIN
        if chosen["margin"]:
            margin = chosen["margin"] * (p.margin_unit or self.margin_unit(method))
        return p.settings(method.pooling, method.variant, **chosen | {"margin": margin})

    @property
    def best_rival(self) -> Method:
        """Of CAM and its rivals the one that scores best on the tuning images."""
        return max((CAM, *self.rivals), key=lambda rival: self.tuned(rival).miou)

    def margin_rows(self, scales: tuple[float, ...]) -> float:
        """Over how many rows and target classes `official` sums an image's logits, on average."""
        rows = 2 * sum(scale >= 1 or OFFICIAL.loss_on_half_scale for scale in scales)
        return rows * float(self.tuning.labels.sum(axis=1).mean())

    def margin_unit(self, method: Method) -> float:
        """CAM's mean target logit (GAP); `official` sums it over rows and classes.

        Read at step 0 of an adaptation of one step.
        """
        settings = self.profile.settings("gap", method.variant, 0.0, NO_MARGIN, 0)
        settings = replace(settings, steps=1)
        images = self.maps(self.tuning, self.scales, settings).table("images")
        mean = float(images["logit_first"].mean())
        return mean if settings.variant.clamp_at_margin else mean * self.margin_rows(self.scales)

    def seed(self, method: Method) -> Seed:
        """Seeds of the scored images by a method, at the threshold chosen on the tuning images."""
        sets = (self.scored, self.tuning)
        seeds = self.seeds(method, *sets)
        swept = list(map(self.swept, sets, seeds))
        best = [thresholds.best_threshold(one.total()) for one in swept]
        chosen = {"oracle": best[0], "held-out": best[1]}
        chosen["mask-free"] = mask_free.threshold(self.store, self.tuning, seeds[1])
        return Seed(seeds[0].result, swept[0], chosen)

    def coverage(self, method: Method) -> pd.DataFrame:
        """What a method's maps cover, at its held-out threshold: see `ribkit.study.coverage`.

        Another training's plain CAM, if there is another, halves the objects: each CAM peaks where
        it does by chance too, and any other map covers more of what is far from its own peak.
        """
        seed, other = self.seed(method), self.replicas[(self.number + 1) % len(self.replicas)]
        plain = other.maps(self.scored, other.scales, None)
        how = {"maps": seed.maps.arrays("maps"), "threshold": seed.threshold("held-out")}
        how |= {"plain": plain.arrays("maps")}  # where a map is clipped, it has no one peak
        run = self.store.run(coverage.cover, images=self.scored, **how)
        return run.table("coverage")

    # ---- pictures of the process --------------------------------------------------------------
    def stilled(self, method: Method) -> bool:
        """Whether tuning left a RIB at the lowest rate, though it gains nothing over CAM there.

        The map had better not move.
        """
        tuned = self.tuned(method)
        return tuned.least("lr") and tuned.miou <= self.tuned(CAM).miou

    def shown(self, method: Method) -> Settings:
        """The settings that a RIB's process and its ablations are shown with: the chosen ones.

        Where it is `stilled` there would be nothing to see, nor to take away: there the rate is the
        profile's highest.
        """
        settings = self.settings(method)
        return replace(settings, lr=max(self.profile.lrs)) if self.stilled(method) else settings

    def growth(self, method: Method, images: ImageSet | None = None) -> tuple[ImageSet, Result]:
        """Images, else the first scored ones, and a method's maps through its process (`shown`)."""
        images = first(self.scored, 3) if images is None else images
        sizes = Sizes(self.scales, self.profile.long_side)
        seen = {"model": self.model, "images": images, "sizes": sizes}
        adaptation = self.adaptation(self.shown(method))
        return images, self.store.run(maps.growth, **seen, adaptation=adaptation)

    def photographs(self) -> tuple[ImageSet, Result]:
        """Shipped photographs, and their maps through the process, with the ImageNet head.

        Nothing is tuned nor scored here: settings and scales are those of `ribkit.compare`.
        """
        every = photographs.shipped_labelled()
        images = every.take([every.ids.index(name) for name in PHOTOGRAPHS])
        file = architectures.imagenet_weights(PICTURED)
        start = {"backbone": PICTURED, "weights": file}
        trained = self.store.run(classifier.imagenet, **start).tensors("weights")
        n_classes = len(images.classes)
        model = TrainedModel.of(classifier.trained_network, trained, n_classes=n_classes, **start)
        bank = self._bank(model, images, (320, 320), 224)
        adaptation = Adaptation(PHOTOGRAPH_SETTINGS, bank, self.profile.rng_seed)
        sizes = Sizes(PHOTOGRAPH_SCALES, self.profile.long_side)
        seen = {"model": model, "images": images, "sizes": sizes}
        return images, self.store.run(maps.growth, **seen, adaptation=adaptation)
