"""RQ4's stages and how they hang together: seeds -> pseudo ground truth -> segmentation network.

Like `ribkit.study.study`, which it goes on from: each method returns stored results and computes
what is missing. IRN and PSA learn from the labels of the scored, the tuning and the remaining
images alike, in which no ground truth enters; thresholds, and what both walks must fit, are chosen
on the tuning images. Segmentation networks learn from the scored and the remaining images.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import Any

import numpy as np

from ribkit.data import scenes
from ribkit.data.images import ImageSet
from ribkit.evaluation import tuning
from ribkit.evaluation.tuning import Axis, Tuned
from ribkit.networks import deeplab
from ribkit.networks.trained import TrainedModel
from ribkit.refinement import irn, psa, saliency, stages
from ribkit.refinement.random_walk import WALKS, Walk
from ribkit.runtime.store import Result, StoredArrays
from ribkit.study import predictions
from ribkit.study.study import CAM, RIB, Method, Study

Seeds = tuple[ImageSet, StoredArrays]  # images with their maps
Labels = tuple[tuple[ImageSet, StoredArrays | None], ...]  # with its label maps; None: its masks

STAGES = ("seed", "+ CRF", "+ PSA", "+ IRN", "+ IRN + CRF", "+ IRN + saliency")
STARTS: dict[str, Callable[[Study], Method]] = {  # whose seeds go through the stages
    "CAM": lambda study: CAM,
    "best rival": lambda study: study.best_rival,  # which may be CAM
    "RIB": lambda study: RIB,
}
PSEUDO = "+ IRN"  # what the network learns from, as in the authors' code
LEARNERS = {"irn": irn, "psa": psa, "network": deeplab}  # what learns from label maps
TRAINED = ("classifier", *LEARNERS)
FEW = "few masks"  # a network's source, a control: the masks of the tuning images, and nothing else
SALIENT_SCENES = 400


@dataclass(frozen=True)
class Refined:
    """One stage's label maps of the scored images, and how well they fit: see `stages.score`."""

    labels: Result
    counts: np.ndarray  # (N, 3, n)
    background: np.ndarray  # the same, with 255 read as background
    confusion: np.ndarray  # (n, n + 1), of all images


class Refinement:
    """What happens to one method's seeds until they are pseudo ground truth."""

    def __init__(self, study: Study, method: Method):
        self.study, self.method, self.profile = study, method, study.profile
        self.run = study.store.run

    @cached_property
    def scored(self) -> Seeds:
        """The scored images with their seeds."""
        return self._seeds(self.study.scored)

    @cached_property
    def tuning(self) -> Seeds:
        """The tuning images with their seeds."""
        return self._seeds(self.study.tuning)

    @cached_property
    def remaining(self) -> tuple[Seeds, ...]:
        """The remaining images with their seeds."""
        return tuple(map(self._seeds, self.study.remaining_images))

    @property
    def learned(self) -> tuple[Seeds, ...]:
        """All that IRN and PSA learn from."""
        return self.scored, self.tuning, *self.remaining

    def _seeds(self, images: ImageSet) -> Seeds:
        return images, *self.study.seeds(self.method, images)

    @cached_property
    def threshold(self) -> float:
        """The seeds' threshold, chosen on the tuning images."""
        return self.study.seed(self.method).threshold("held-out")

    def stage(self, name: str) -> Refined:
        """One of `STAGES`, scored."""
        labels = self.labels(name, *self.scored)
        scores = label_scores(self.study, self.study.scored, labels.arrays("labels"))
        return Refined(labels, *(scores[of] for of in ("error", "background", "confusion")))

    def pseudo(self, name: str) -> Labels:
        """Scored and remaining images with their label maps after one of `STAGES`."""
        parts = (self.scored, *self.remaining)
        return tuple((part[0], self.labels(name, *part).arrays("labels")) for part in parts)

    def labels(self, name: str, images: ImageSet, maps: StoredArrays) -> Result:
        """Label maps of images with these seeds after one of `STAGES`."""
        if name == "+ PSA":
            return self._psa_labels(images, maps, self.psa_tuned.chosen)
        threshold = self.threshold
        if "IRN" in name:
            maps, threshold = self.irn_maps(images, maps), self.irn_threshold
        make = stages.crf_labels if name.endswith("CRF") else stages.threshold_labels
        labels = self._sized(make, images, maps, threshold=threshold)
        if name.endswith("saliency"):
            both = {"labels": labels.arrays("labels"), "salient": saliency_maps(self.study, images)}
            labels = self.run(stages.salient_labels, images=images, **both)
        return labels

    def _sized(self, stage: Callable, images: ImageSet, maps: StoredArrays, **how: Any) -> Result:
        """A stage over images, as large as the profile sees them, and their maps."""
        long_side = self.profile.long_side
        return self.run(stage, images=images, maps=maps, long_side=long_side, **how)

    # ---- IRN and PSA ----------------------------------------------------------------------------
    @cached_property
    def training_labels(self) -> Labels:
        """Scored, tuning and remaining images with the labels that IRN and PSA learn from."""
        how = {"threshold": self.threshold}
        every = ((part[0], self._sized(stages.sure_labels, *part, **how)) for part in self.learned)
        return tuple((images, made.arrays("labels")) for images, made in every)

    def training(self, kind: str) -> partial:
        """The call that trains one of the two."""
        return _training(self.study, kind, self.training_labels)

    @cached_property
    def irn(self) -> TrainedModel:
        return _trained(self.study, irn.build, self.training("irn"))

    @cached_property
    def psa(self) -> TrainedModel:
        return _trained(self.study, psa.build, self.training("psa"))

    def irn_maps(
        self, images: ImageSet, maps: StoredArrays, walk: Walk | None = None
    ) -> StoredArrays:
        """Seeds after IRN's walk: the one chosen, if none is given."""
        how = {"model": self.irn, "walk": walk or self.walk}
        return self._sized(stages.irn_walk, images, maps, **how).arrays("maps")

    @cached_property
    def irn_tuned(self) -> Tuned:
        """What was tried of IRN's walk on the tuning images, and what was chosen."""
        return tuning.search(self.irn_axes, self._walked)

    @property
    def irn_axes(self) -> list[Axis]:
        """The settings of IRN's walk and their candidates."""
        p = self.profile
        axes = [("log2_steps", p.irn_log2_steps), ("beta", p.irn_betas), ("radius", p.irn_radii)]
        return [Axis(*axis) for axis in axes]

    @property
    def walk(self) -> Walk:
        """The walk chosen."""
        return replace(WALKS[self.profile.walk], **self.irn_tuned.chosen)

    @property
    def irn_threshold(self) -> float:
        """The walked maps' threshold, chosen on the tuning images."""
        return self._walked(self.irn_tuned.chosen)[1]

    def _walked(self, tried: Mapping[str, Any]) -> tuple[np.ndarray, float]:
        """Counts of the tuning images after a walk at their best threshold, and that one."""
        images, maps = self.tuning
        walk = replace(WALKS[self.profile.walk], **tried)
        return self.study.best(images, self.irn_maps(images, maps, walk))

    @cached_property
    def psa_tuned(self) -> Tuned:
        """What was tried of PSA's walk on the tuning images, and what was chosen."""
        (images, maps), p = self.tuning, self.profile

        def score(tried: Mapping[str, Any]) -> tuple[np.ndarray, float]:
            labels = self._psa_labels(images, maps, tried).arrays("labels")
            return label_counts(self.study, images, labels), np.nan  # its labels need no threshold

        axes = [
            Axis("alpha", p.psa_alphas, goes_on=True),
            Axis("log2_steps", p.psa_log2_steps),
        ]
        return tuning.search(axes, score)

    def _psa_labels(self, images: ImageSet, maps: StoredArrays, tried: Mapping[str, Any]) -> Result:
        """Label maps after PSA's walk with this alpha, 2^log2_steps long."""
        return self._sized(stages.psa_walk, images, maps, model=self.psa, **tried)


_own = cache(Refinement)


def refinement(study: Study, title: str) -> Refinement:
    """What happens to the seeds of one of `STARTS`."""
    return _own(study, STARTS[title](study))


def refinements(study: Study) -> dict[str, Refinement]:
    """All that this run has."""
    return {title: refinement(study, title) for title in available_starts(study)}


def available_starts(study: Study) -> tuple[str, ...]:
    """Those of `STARTS` that this run has: where nothing rivals CAM, CAM and RIB."""
    return tuple(STARTS) if study.rivals else ("CAM", "RIB")


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
    model = _trained(study, deeplab.build, _saliency_training(study.first), "n_labels")
    seen = {"images": images, "long_side": p.long_side}
    return run(predictions.foreground, model=model, **seen).arrays("maps")


def _saliency_training(study: Study) -> partial:
    """The call that trains a network on where any object is."""
    others = scenes.generate(study.stream(5), SALIENT_SCENES)
    anything = study.store.run(predictions.objects, images=others).arrays("labels")
    return _training(study, "network", ((others, anything),), n_labels=2)


# ---- the network --------------------------------------------------------------------------------
def sources(study: Study) -> tuple[str, ...]:
    """What networks are trained on; the last is the ceiling."""
    salient = ("CAM + saliency", "RIB + saliency") if study.profile.saliency else ()
    return ("CAM", "RIB", *salient, "ground truth")


def labelled(study: Study, source: str) -> Labels:
    """Scored and remaining images with a source's label maps; None: their masks."""
    if source == FEW:
        return ((study.tuning, None),)
    if source == "ground truth":
        return tuple((images, None) for images in (study.scored, *study.remaining_images))
    title, _, saliency = source.partition(" + ")
    return refinement(study, title).pseudo("+ IRN + saliency" if saliency else PSEUDO)


def network(study: Study, source: str) -> TrainedModel:
    """A network trained on a source's labels of the scored and the remaining images."""
    return _trained(study, deeplab.build, _network_training(study, source), "n_labels")


def network_labels(study: Study, source: str) -> Result:
    """``labels`` and, after the CRF, ``refined`` of the validation images."""
    p, model = study.profile, network(study, source)
    seen = {"images": study.validation, "scales": p.test_scales, "long_side": p.long_side}
    how = {"crf_min_score": p.crf_min_score}
    return study.store.run(predictions.predict, model=model, **seen, **how)


def label_scores(study: Study, images: ImageSet, labels: StoredArrays) -> StoredArrays:
    """How label maps fit, 255 read both ways: see `stages.score`."""
    return study.store.run(stages.score, images=images, labels=labels).arrays("scores")


def label_counts(study: Study, images: ImageSet, labels: StoredArrays) -> np.ndarray:
    """Counts ``(N, 3, n)`` of label maps, in which an ignored pixel is an error."""
    return label_scores(study, images, labels)["error"]


def network_counts(study: Study, source: str, refined: bool) -> list[np.ndarray]:
    """Counts ``(N, 3, n)`` of the validation images, one for each replica."""
    train(study.replicas, "network")
    counts = []
    for replica in study.replicas:
        labels = network_labels(replica, source).arrays("refined" if refined else "labels")
        counts.append(label_counts(study, study.validation, labels))
    return counts


def few_masks_counts(study: Study) -> list[np.ndarray]:
    """Counts ``(N, 3, n)`` of the scored images, one for each replica, of a network that learned
    from the masks that everything else is only tuned on. It is told the images' classes, as CAM is.
    """
    train(study.replicas, FEW)
    p, counts = study.profile, []
    for replica in study.replicas:
        seen = {"model": network(replica, FEW), "images": study.scored}
        how = {"scales": p.test_scales, "long_side": p.long_side}
        labels = study.store.run(predictions.predict_present, **seen, **how).arrays("labels")
        counts.append(label_counts(study, study.scored, labels))
    return counts


# ---- trainings ----------------------------------------------------------------------------------
def _training(study: Study, name: str, parts: Labels, n_labels: int = 0) -> partial:
    """The call that trains one of `LEARNERS` on label maps, of all classes or of ``n_labels``."""
    p = study.profile
    backbone = p.network_backbone if name == "network" else p.backbone
    learned = {"parts": parts, "n_labels": n_labels or len(study.scored.classes) + 1}
    learned |= {"long_side": p.long_side}
    return study.training_of(LEARNERS[name].train, getattr(p, name), backbone, **learned)


def _network_training(study: Study, source: str) -> partial:
    return _training(study, "network", labelled(study, source))


def _trained(study: Study, build: Callable, call: partial, *more: str) -> TrainedModel:
    """The network of a training, which is run if need be; more: names of what else builds it."""
    names = ("backbone", *more, "training", "pretext", "weights")
    weights = study.store.run_all([call], call.func.stage)[0].tensors("weights")
    return TrainedModel.of(build, weights, **{name: call.keywords[name] for name in names})


def prepared(studies: Sequence[Study], name: str) -> list[Callable[[], partial]]:
    """All trainings of one of `TRAINED`, or of "saliency" where the study has its own.

    Of `FEW`, which is one of the networks, without the others. Each computes what it learns from,
    and gives its call.
    """
    if name == "classifier":
        return [one.training for one in studies]
    if name == "saliency":
        (own,) = {one.first for one in studies}
        return [partial(_saliency_training, own)] if own.profile.saliency == "scenes" else []
    if name == FEW:
        return [partial(_network_training, one, FEW) for one in studies]
    if name == "network":
        learned = [(one, source) for one in studies for source in (*sources(one), FEW)]
        return [partial(_network_training, *each) for each in learned]
    owns = (own for one in studies for own in dict.fromkeys(refinements(one).values()))
    return [partial(own.training, name) for own in owns]


@cache
def train(studies: tuple[Study, ...], *names: str) -> None:
    """Train what is missing of some of `TRAINED` in some replicas, side by side."""
    if "network" in names:
        train(studies, "irn")  # which the networks' labels need
    calls = [prepare() for name in names for prepare in prepared(studies, name)]
    studies[0].store.run_all(calls, " and ".join(names))
