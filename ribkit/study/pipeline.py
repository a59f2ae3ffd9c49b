"""RQ4's stages and how they hang together: seeds -> pseudo ground truth -> segmentation network.

Like `ribkit.study.study`, which it goes on from: each method returns stored results and computes
what is missing. IRN and PSA learn from the labels of the scored, the tuning and the remaining
images alike, in which no ground truth enters; thresholds, and PSA's alpha and steps, are chosen on
the tuning images. Segmentation networks learn from the scored and the remaining images.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial

import numpy as np

from ribkit.data import scenes
from ribkit.data.images import ImageSet
from ribkit.evaluation import miou, thresholds
from ribkit.networks import deeplab
from ribkit.networks.trained import TrainedModel
from ribkit.refinement import irn, psa, saliency, stages
from ribkit.refinement.random_walk import WALKS
from ribkit.runtime.store import Result, StoredArrays, StoredTensors
from ribkit.study import predictions
from ribkit.study.study import CAM, RIB, Method, Study

Seeds = tuple[tuple[ImageSet, StoredArrays], ...]  # image sets, each with its maps
Labels = tuple[tuple[ImageSet, StoredArrays | None], ...]  # with its label maps; None: its masks

STAGES = ("seed", "+ CRF", "+ PSA", "+ IRN", "+ IRN + CRF", "+ IRN + saliency")
PSEUDO = "+ IRN"  # what the network learns from, as in the paper's headline
AFFINITY = {"irn": irn, "psa": psa}
SALIENT_SCENES = 400


@dataclass(frozen=True)
class Refined:
    """One stage's label maps of the scored images, and how well they fit.

    counts: ``(N, 3, n)``; background: the same with 255 read as background; confusion:
    ``(n, n + 1)`` of all images, see `stages.score`. threshold: of the maps, or alpha (PSA).
    """

    labels: Result
    counts: np.ndarray
    background: np.ndarray
    confusion: np.ndarray
    threshold: float


class Refinement:
    """What happens to one method's seeds until they are pseudo ground truth."""

    def __init__(self, study: Study, method: Method):
        self.study, self.method, self.profile = study, method, study.profile
        self.run = study.store.run

    @property
    def title(self) -> str:
        """``CAM`` or ``RIB``."""
        return self.method.title.split(" ")[0]

    @cached_property
    def maps(self) -> Seeds:
        """Scored and tuning images with their seeds."""
        return self._seeds(self.study.scored, self.study.tuning)

    @cached_property
    def remaining_maps(self) -> Seeds:
        """The remaining images with their seeds."""
        return self._seeds(*self.study.remaining_images)

    def _seeds(self, *sets: ImageSet) -> Seeds:
        study = self.study
        settings = study.tune(self.method)[1] if self.method.pooling else None
        results = (study.maps(images, study.scales, settings) for images in sets)
        return tuple((s, result.arrays("maps")) for s, result in zip(sets, results, strict=True))

    @cached_property
    def threshold(self) -> float:
        """The seeds' threshold, chosen on the tuning images."""
        return self.study.seed(self.method).held_out / 100

    def stage(self, name: str) -> Refined:
        """One of `STAGES`, scored."""
        labels, threshold = self.labels(name, *self.maps[0])
        scores = self.score(self.study.scored, labels.arrays("labels"))
        return Refined(
            labels, scores["error"], scores["background"], scores["confusion"], threshold
        )

    def pseudo(self, name: str) -> Labels:
        """Scored and remaining images with their label maps after one of `STAGES`."""
        parts = (self.maps[0], *self.remaining_maps)
        return tuple(
            (images, self.labels(name, images, maps)[0].arrays("labels")) for images, maps in parts
        )

    def labels(self, name: str, images: ImageSet, maps: StoredArrays) -> tuple[Result, float]:
        """Label maps after one of `STAGES` of images with these seeds, and what made them.

        Args:
            name: One of `STAGES`.
            images: The images.
            maps: Their seeds.

        Returns:
            The stored label maps, and the threshold of the maps, or PSA's alpha.
        """
        sized = {"images": images, "long_side": self.profile.long_side}
        if name == "+ PSA":
            alpha, log2_steps = self.psa_choice
            return self.psa_labels(images, maps, alpha, log2_steps), alpha
        threshold = self.threshold
        if "IRN" in name:
            maps, threshold = self.irn_maps(images, maps), self.irn_threshold
        if name.endswith("CRF"):
            return self.run(stages.crf_labels, maps=maps, threshold=threshold, **sized), threshold
        labels = self.run(stages.threshold_labels, maps=maps, threshold=threshold, **sized)
        if name.endswith("saliency"):
            salient = saliency_maps(self.study, images)
            labels = self.run(
                stages.salient_labels,
                images=images,
                labels=labels.arrays("labels"),
                salient=salient,
            )
        return labels, threshold

    def score(self, images: ImageSet, labels: StoredArrays) -> StoredArrays:
        """How label maps fit, 255 read both ways: see `stages.score`."""
        return self.run(stages.score, images=images, labels=labels).arrays("scores")

    # ---- IRN and PSA ----------------------------------------------------------------------------
    def training_labels(self, kind: str) -> Labels:
        """Scored, tuning and remaining images with the labels that IRN or PSA learns from."""
        sized = {"long_side": self.profile.long_side}
        if kind == "irn":
            make, sized = stages.irn_labels, sized | {"threshold": self.threshold}
        else:
            make = stages.psa_labels
        parts = (*self.maps, *self.remaining_maps)
        results = (self.run(make, images=images, maps=maps, **sized) for images, maps in parts)
        return tuple((p[0], r.arrays("labels")) for p, r in zip(parts, results, strict=True))

    def training(self, kind: str) -> partial:
        """The stage that trains ``irn`` or ``psa``, with what it needs, for `Store.run_all`."""
        p, study = self.profile, self.study
        return partial(
            AFFINITY[kind].train,
            backbone=p.backbone,
            parts=self.training_labels(kind),
            n_labels=len(study.scored.classes) + 1,
            long_side=p.long_side,
            training=replace(getattr(p, kind), rng_seed=study.training_seed),
            pretext=study.pretext_of(p.backbone),
            weights=p.imagenet_weights(p.backbone),
        )

    @cached_property
    def irn(self) -> TrainedModel:
        """The trained IRN."""
        return self._affinity("irn")

    @cached_property
    def psa(self) -> TrainedModel:
        """The trained PSA."""
        return self._affinity("psa")

    def _affinity(self, kind: str) -> TrainedModel:
        names = ("backbone", "training", "pretext", "weights")
        return _trained_model(self.study, AFFINITY[kind].build, self.training(kind), names)

    def irn_maps(self, images: ImageSet, maps: StoredArrays, walk: str = "") -> StoredArrays:
        """Seeds after IRN's walk: one of `WALKS`, the profile's if none is named."""
        return self.irn_walk(images, maps, walk).arrays("maps")

    def irn_walk(self, images: ImageSet, maps: StoredArrays, walk: str = "") -> Result:
        """Maps and boundaries of IRN's walk."""
        return self.run(
            stages.irn_walk,
            model=self.irn,
            images=images,
            maps=maps,
            walk=WALKS[walk or self.profile.walk],
            long_side=self.profile.long_side,
        )

    @cached_property
    def irn_threshold(self) -> float:
        """The walked maps' threshold, chosen on the tuning images."""
        images, maps = self.maps[1]
        total = self.study.swept(images, self.irn_maps(images, maps)).total()
        return float(thresholds.THRESHOLDS[thresholds.best_threshold(total)])

    def psa_labels(
        self, images: ImageSet, maps: StoredArrays, alpha: float, log2_steps: int
    ) -> Result:
        """Label maps after PSA's walk with this alpha, 2^log2_steps long."""
        return self.run(
            stages.psa_walk,
            model=self.psa,
            images=images,
            maps=maps,
            alpha=alpha,
            log2_steps=log2_steps,
            long_side=self.profile.long_side,
        )

    def psa_tried(self) -> dict[tuple[float, int], float]:
        """mIoU on the tuning images with each alpha and number of steps."""
        images, maps = self.maps[1]
        tried = {}
        for pair in itertools.product(self.profile.psa_alphas, self.profile.psa_log2_steps):
            scores = self.score(images, self.psa_labels(images, maps, *pair).arrays("labels"))
            tried[pair] = miou.miou(scores["error"].sum(axis=0))
        return tried

    @cached_property
    def psa_choice(self) -> tuple[float, int]:
        """The best pair of `psa_tried`."""
        tried = self.psa_tried()
        return max(tried, key=tried.get)


@cache
def refinements(study: Study) -> tuple[Refinement, Refinement]:
    """CAM's and RIB's."""
    return Refinement(study, CAM), Refinement(study, RIB)


@cache
def train_affinity_models(
    studies: tuple[Study, ...], kinds: tuple[str, ...] = ("irn", "psa")
) -> None:
    """Train the IRNs and PSAs of some replicas that are missing, side by side."""
    owners = [own for study in studies for own in refinements(study)]
    calls = [own.training(kind) for own in owners for kind in kinds]
    studies[0].store.run_all(calls, " and ".join(kinds).upper())


def trained(study: Study, call: partial) -> StoredTensors:
    """The weights that a training leaves."""
    return study.store.run_all([call], call.func.stage)[0].tensors("weights")


def _trained_model(
    study: Study, build: Callable, call: partial, names: tuple[str, ...]
) -> TrainedModel:
    """The network of a training, built with those of its parameters."""
    options = tuple((name, call.keywords[name]) for name in names)
    return TrainedModel(build, options, trained(study, call))


def available_stages(study: Study) -> tuple[str, ...]:
    """The stages that this run can make: without saliency maps, those without saliency."""
    return STAGES if study.profile.saliency else STAGES[:-1]


# ---- saliency -----------------------------------------------------------------------------------
def saliency_maps(study: Study, images: ImageSet) -> StoredArrays:
    """Saliency maps of the images, from where the profile says.

    ``scenes``: a network that learned objects, of whatever class, from the masks of scenes of its
    own, as off-the-shelf saliency networks learned from the masks of other photographs.
    """
    p, run = study.profile, study.store.run
    if p.saliency == "u2netp":
        return run(saliency.u2net, images=images).arrays("maps")
    if p.saliency != "scenes":
        folder = saliency.Folder(p.saliency, images.ids)
        return run(saliency.from_folder, images=images, folder=folder).arrays("maps")
    others = scenes.generate(study.stream(5), SALIENT_SCENES)
    anything = run(predictions.objects, images=others).arrays("labels")
    network = _segmenter(study.first, _on(study.first, ((others, anything),), 2))
    side = p.long_side
    return run(predictions.foreground, model=network, images=images, long_side=side).arrays("maps")


# ---- the network --------------------------------------------------------------------------------
def sources(study: Study) -> tuple[str, ...]:
    """What networks are trained on; the last is the ceiling."""
    salient = ("RIB + saliency",) if study.profile.saliency else ()
    return ("CAM", "RIB", *salient, "ground truth")


def labelled(study: Study, source: str) -> Labels:
    """Scored and remaining images with a source's label maps; None: their masks."""
    if source == "ground truth":
        return tuple((images, None) for images in (study.scored, *study.remaining_images))
    cam, rib = refinements(study)
    name = "+ IRN + saliency" if source.endswith("saliency") else PSEUDO
    return (cam if source == "CAM" else rib).pseudo(name)


def network(study: Study, source: str) -> TrainedModel:
    """A network trained on a source's labels of the scored and the remaining images."""
    return _segmenter(study, _training(study, source))


def _training(study: Study, source: str) -> partial:
    """The stage that trains a source's network, with what it needs."""
    return _on(study, labelled(study, source), len(study.scored.classes) + 1)


@cache
def train_networks(studies: tuple[Study, ...]) -> None:
    """Train the networks of some replicas that are missing, side by side."""
    train_affinity_models(studies, ("irn",))
    calls = [_training(study, source) for study in studies for source in sources(study)]
    studies[0].store.run_all(calls, "segmentation networks")


def _on(study: Study, parts: Labels, n_labels: int) -> partial:
    """The stage that trains a network on image sets with these labels, with what it needs."""
    p = study.profile
    return partial(
        deeplab.train,
        backbone=p.network_backbone,
        n_labels=n_labels,
        parts=parts,
        training=replace(p.network, rng_seed=study.training_seed),
        long_side=p.long_side,
        pretext=study.pretext_of(p.network_backbone),
        weights=p.imagenet_weights(p.network_backbone),
    )


def _segmenter(study: Study, call: partial) -> TrainedModel:
    names = ("backbone", "n_labels", "training", "pretext", "weights")
    return _trained_model(study, deeplab.build, call, names)


def network_labels(study: Study, source: str) -> Result:
    """``labels`` and, after the CRF, ``refined`` of the validation images."""
    p = study.profile
    return study.store.run(
        predictions.predict,
        model=network(study, source),
        images=study.validation,
        scales=p.test_scales,
        long_side=p.long_side,
    )


def network_counts(study: Study, source: str, refined: bool) -> list[np.ndarray]:
    """Counts ``(N, 3, n)`` of the validation images, one for each replica."""
    value = "refined" if refined else "labels"
    train_networks(study.replicas)
    return [
        study.store.run(
            predictions.score,
            images=study.validation,
            labels=network_labels(replica, source).arrays(value),
        ).arrays("counts")["counts"]
        for replica in study.replicas
    ]


# ---- for processes that train together ----------------------------------------------------------
TRAINED = ("classifier", "irn", "psa", "network")


def train(study: Study, name: str) -> None:
    """Train all of one of `TRAINED` that are missing, side by side."""
    if name == "classifier":
        study.train_classifiers()
    elif name == "network":
        train_networks(study.replicas)
    else:
        train_affinity_models(study.replicas, (name,))


def trainings(study: Study, name: str) -> list[Callable[[], partial]]:
    """The same, one by one: each computes what its training needs, and gives it for `Store.run`."""
    if name == "classifier":
        return [replica.training for replica in study.replicas]
    if name == "network":
        return [
            partial(_training, one, source) for one in study.replicas for source in sources(one)
        ]
    owners = [own for one in study.replicas for own in refinements(one)]
    return [partial(own.training, name) for own in owners]
