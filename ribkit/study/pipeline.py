"""RQ4's stages and how they hang together: seeds -> pseudo ground truth -> segmentation network.

Like `ribkit.study.study`, which it goes on from: each method returns stored results and computes
what is missing. IRN and PSA learn from the labels of the scored, the tuning and the further images
alike, in which no ground truth enters; thresholds, and PSA's alpha and steps, are chosen on the
tuning images. Segmentation networks learn from the scored and the further images.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial

import numpy as np

from ribkit.data import scenes
from ribkit.data.images import ImageSet
from ribkit.evaluation import miou
from ribkit.networks import deeplab
from ribkit.refinement import irn, psa, saliency
from ribkit.refinement import stages as refinement
from ribkit.refinement.random_walk import WALKS
from ribkit.refinement.stages import AffinityModel
from ribkit.runtime.device import single_threaded
from ribkit.runtime.parallel import map_images
from ribkit.runtime.store import Result
from ribkit.study.predictions import foreground, objects, predict, score
from ribkit.study.study import CAM, RIB, Method, Study

Parts = tuple[tuple[ImageSet, Result], ...]

STAGES = ("seed", "+ CRF", "+ PSA", "+ IRN", "+ IRN + CRF", "+ IRN + saliency")
PSEUDO = "+ IRN"  # what the network learns from, as in the paper's headline
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

    @property
    def title(self) -> str:
        """``CAM`` or ``RIB``."""
        return self.method.title.split(" ")[0]

    @cached_property
    def maps(self) -> tuple[tuple[ImageSet, Result], tuple[ImageSet, Result]]:
        """Scored and tuning images with their seeds."""
        return self._seeds(self.study.scored, self.study.tuning)

    @cached_property
    def remaining_images(self) -> Parts:
        """Further images with their seeds."""
        return self._seeds(*self.study.remaining_images)

    def _seeds(self, *sets: ImageSet) -> Parts:
        study = self.study
        settings = study.tune(self.method)[1] if self.method.pooling else None
        return tuple((images, study.maps(images, study.scales, settings)) for images in sets)

    @cached_property
    def threshold(self) -> float:
        """The seeds' threshold, chosen on the tuning images."""
        return self.study.seed(self.method).held_out / 100

    def stage(self, name: str) -> Refined:
        """One of `STAGES`, scored."""
        labels, threshold = self._labels(name, *self.maps[0])
        found = self.score(self.study.scored, labels)
        return Refined(labels, found["error"], found["background"], found["confusion"], threshold)

    def pseudo(self, name: str) -> Parts:
        """Scored and further images with their label maps after one of `STAGES`."""
        parts = (self.maps[0], *self.remaining_images)
        return tuple((images, self._labels(name, images, maps)[0]) for images, maps in parts)

    def _labels(self, name: str, images: ImageSet, maps: Result) -> tuple[Result, float]:
        """Label maps of images with these seeds, and the threshold that made them."""
        return {
            "seed": self._seed,
            "+ CRF": self._crf,
            "+ PSA": self._psa,
            "+ IRN": self._irn,
            "+ IRN + CRF": self._irn_crf,
            "+ IRN + saliency": self._irn_saliency,
        }[name](images, maps)

    def _run(self, name: str, stage, **parameters) -> Result:
        return self.study.store.run(name, stage, **parameters)

    def score(self, images: ImageSet, labels: Result) -> dict[str, np.ndarray]:
        """How label maps fit, 255 read both ways: see `stages.score`."""
        result = self._run("score-labels", refinement.score, images=images, labels=labels)
        return result.arrays("scores")

    def _seed(self, images: ImageSet, maps: Result) -> tuple[Result, float]:
        return self._plain(images, maps, self.threshold), self.threshold

    def _plain(self, images: ImageSet, maps: Result, threshold: float) -> Result:
        arguments = {"images": images, "seeds": maps, "threshold": threshold}
        side = self.profile.long_side
        return self._run("labels", refinement.threshold_labels, **arguments, long_side=side)

    def _crf(self, images: ImageSet, maps: Result) -> tuple[Result, float]:
        return self._crf_on(images, maps, self.threshold), self.threshold

    def _crf_on(self, images: ImageSet, maps: Result, threshold: float) -> Result:
        arguments = {"images": images, "seeds": maps, "threshold": threshold}
        side = self.profile.long_side
        return self._run("crf", refinement.crf_on_maps, **arguments, long_side=side)

    # ---- IRN ------------------------------------------------------------------------------------
    def irn_labels(self) -> Parts:
        """Scored, tuning and further images with the labels that IRN learns from."""
        side, threshold = self.profile.long_side, self.threshold
        return tuple(
            (
                images,
                self._run(
                    "irn-labels",
                    refinement.irn_labels,
                    images=images,
                    seeds=maps,
                    threshold=threshold,
                    long_side=side,
                ),
            )
            for images, maps in (*self.maps, *self.remaining_images)
        )

    @cached_property
    def irn(self) -> AffinityModel:
        """The trained IRN."""
        return self._affine("irn")

    def training(self, kind: str) -> dict:
        """The stage that trains the network of this kind, ``irn`` or ``psa``, for `Store.run`."""
        p, study = self.profile, self.study
        return {
            "name": kind,
            "stage": {"irn": irn.train, "psa": psa.train}[kind],
            "backbone": p.backbone,
            "parts": self.irn_labels() if kind == "irn" else self.psa_labels(),
            "n_labels": len(study.scored.classes) + 1,
            "long_side": p.long_side,
            "training": replace(getattr(p, kind), rng_seed=study.training_seed),
            "pretext": study.pretext if p.backbone == "small" else None,
            "weights": p.imagenet_weights(p.backbone),
        }

    def _affine(self, kind: str) -> AffinityModel:
        asked = self.training(kind)
        weights, training = single_threaded(_stored, (self.study, asked)), asked["training"]
        about = (self.profile.backbone, training.stride, training.rng_seed)
        return AffinityModel(kind, weights, *about, asked["pretext"], asked["weights"])

    def irn_maps(self, images: ImageSet, maps: Result, walk: str = "") -> Result:
        """Seeds after IRN's walk: one of `random_walk.WALKS`, the profile's if none is named."""
        return self._run(
            "irn-walk",
            refinement.irn_walk,
            model=self.irn,
            images=images,
            seeds=maps,
            walk=WALKS[walk or self.profile.walk],
            long_side=self.profile.long_side,
        )

    @cached_property
    def irn_threshold(self) -> float:
        """The walked maps' threshold, chosen on the tuning images."""
        images, maps = self.maps[1]
        total = self.study.swept(images, self.irn_maps(images, maps)).total()
        return float(miou.THRESHOLDS[miou.best_threshold(total)])

    def _irn(self, images: ImageSet, maps: Result) -> tuple[Result, float]:
        walked, threshold = self.irn_maps(images, maps), self.irn_threshold
        return self._plain(images, walked, threshold), threshold

    def _irn_crf(self, images: ImageSet, maps: Result) -> tuple[Result, float]:
        walked = self.irn_maps(images, maps)
        return self._crf_on(images, walked, self.irn_threshold), self.irn_threshold

    def _irn_saliency(self, images: ImageSet, maps: Result) -> tuple[Result, float]:
        labels, threshold = self._irn(images, maps)
        arguments = {"images": images, "labels": labels, "maps": saliency_maps(self.study, images)}
        return self._run("saliency-labels", refinement.with_saliency, **arguments), threshold

    # ---- PSA ------------------------------------------------------------------------------------
    def psa_labels(self) -> Parts:
        """Scored, tuning and further images with the labels that PSA learns from."""
        side = self.profile.long_side
        return tuple(
            (
                images,
                self._run(
                    "psa-labels",
                    refinement.psa_labels,
                    images=images,
                    seeds=maps,
                    long_side=side,
                ),
            )
            for images, maps in (*self.maps, *self.remaining_images)
        )

    @cached_property
    def psa(self) -> AffinityModel:
        """The trained PSA."""
        return self._affine("psa")

    def _psa_walk(self, images: ImageSet, maps: Result, alpha: float, log2_steps: int) -> Result:
        return self._run(
            "psa-walk",
            refinement.psa_walk,
            model=self.psa,
            images=images,
            seeds=maps,
            alpha=alpha,
            log2_steps=log2_steps,
            long_side=self.profile.long_side,
        )

    def psa_tried(self) -> dict[tuple[float, int], float]:
        """mIoU on the tuning images with each alpha and number of steps."""
        images, maps = self.maps[1]
        found = {}
        for pair in itertools.product(self.profile.psa_alphas, self.profile.psa_log2_steps):
            scored = self.score(images, self._psa_walk(images, maps, *pair))
            found[pair] = miou.miou(scored["error"].sum(axis=0))
        return found

    def _psa(self, images: ImageSet, maps: Result) -> tuple[Result, float]:
        tried = self.psa_tried()
        alpha, log2_steps = max(tried, key=tried.get)
        return self._psa_walk(images, maps, alpha, log2_steps), alpha


@cache
def refinements(study: Study) -> tuple[Refinement, Refinement]:
    """CAM's and RIB's."""
    return Refinement(study, CAM), Refinement(study, RIB)


@cache
def train_affinity_models(
    studies: tuple[Study, ...], kinds: tuple[str, ...] = ("irn", "psa")
) -> None:
    """Train the IRNs and PSAs of some replicas that are missing, side by side."""
    jobs = [(own, kind) for study in studies for own in refinements(study) for kind in kinds]
    missing = [job for job in jobs if not job[0].study.store.has(**job[0].training(job[1]))]
    if missing:
        map_images(_affine, missing, " and ".join(kinds).upper())


def _affine(job: tuple[Refinement, str]) -> AffinityModel:
    return getattr(*job)


def _stored(job: tuple[Study, dict]) -> Result:
    return job[0].store.run(**job[1])


def stages(study: Study) -> tuple[str, ...]:
    """The stages that this run can make: without saliency maps, those without saliency."""
    return STAGES if study.profile.saliency else STAGES[:-1]


# ---- saliency -----------------------------------------------------------------------------------
def saliency_maps(study: Study, images: ImageSet) -> Result:
    """Saliency maps of the images, from where the profile says.

    ``scenes``: a network that learned objects, of whatever class, from the masks of scenes of its
    own, as off-the-shelf saliency networks learned from the masks of other photographs.
    """
    p = study.profile
    if p.saliency == "u2netp":
        return study.store.run("saliency", saliency.u2net, images=images)
    if p.saliency != "scenes":
        folder = saliency.Folder(p.saliency, images.ids)
        return study.store.run("saliency", saliency.from_folder, images=images, folder=folder)
    others = scenes.generate(study.stream(5), SALIENT_SCENES)
    anything = study.store.run("objects", objects, images=others)
    network = _trained(study.first, _on(study.first, ((others, anything),), 2))
    return study.store.run(
        "saliency", foreground, model=network, images=images, long_side=p.long_side
    )


# ---- the network --------------------------------------------------------------------------------
def sources(study: Study) -> tuple[str, ...]:
    """What networks are trained on; the last is the ceiling."""
    salient = ("RIB + saliency",) if study.profile.saliency else ()
    return ("CAM", "RIB", *salient, "ground truth")


def labelled(study: Study, source: str) -> tuple[tuple[ImageSet, Result | None], ...]:
    """Scored and further images with a source's label maps; None: their masks."""
    if source == "ground truth":
        return tuple((images, None) for images in (study.scored, *study.remaining_images))
    cam, rib = refinements(study)
    name = "+ IRN + saliency" if source.endswith("saliency") else PSEUDO
    return (cam if source == "CAM" else rib).pseudo(name)


def network(study: Study, source: str) -> deeplab.Model:
    """A network trained on a source's labels of the scored and the further images."""
    return _trained(study, _training(study, source))


def _training(study: Study, source: str) -> dict:
    """The stage that trains a source's network, for `Store.run`."""
    return _on(study, labelled(study, source), len(study.scored.classes) + 1)


@cache
def train_networks(studies: tuple[Study, ...]) -> None:
    """Train the networks of some replicas that are missing, side by side."""
    train_affinity_models(studies, ("irn",))
    jobs = [(study, source) for study in studies for source in sources(study)]
    missing = [job for job in jobs if not job[0].store.has(**_training(*job))]
    if missing:
        map_images(_network, missing, "segmentation networks")


def _network(job: tuple[Study, str]) -> deeplab.Model:
    return network(*job)


def _on(study: Study, parts: tuple, n_labels: int) -> dict:
    """The stage that trains a network on image sets with these labels, for `Store.run`."""
    p = study.profile
    return {
        "name": "network",
        "stage": deeplab.train,
        "backbone": p.network_backbone,
        "n_labels": n_labels,
        "parts": parts,
        "training": replace(p.network, rng_seed=study.training_seed),
        "long_side": p.long_side,
        "pretext": study.pretext if p.network_backbone == "small" else None,
        "weights": p.imagenet_weights(p.network_backbone),
    }


def _trained(study: Study, asked: dict) -> deeplab.Model:
    weights = single_threaded(_stored, (study, asked))
    given = (asked[k] for k in ("backbone", "n_labels", "training", "pretext", "weights"))
    return deeplab.Model(weights, *given)


def predictions(study: Study, source: str) -> Result:
    """``labels`` and, after the CRF, ``refined`` of the validation images."""
    p = study.profile
    return study.store.run(
        "predictions",
        predict,
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
            "score-network",
            score,
            images=study.validation,
            predictions=predictions(replica, source),
            value=value,
        ).arrays("counts")["counts"]
        for replica in study.replicas
    ]


# ---- for processes that train together ----------------------------------------------------------
TRAINED = ("classifier", "irn", "psa", "network")


def train(study: Study, name: str) -> None:
    """Train all of one of `TRAINED` that are missing, side by side."""
    if name == "classifier":
        _ = study.classifier
    elif name == "network":
        train_networks(study.replicas)
    else:
        train_affinity_models(study.replicas, (name,))


def trainings(study: Study, name: str) -> list[Callable[[], dict]]:
    """The same, one by one: each computes what its training needs, and gives it for `Store.run`."""
    if name == "classifier":
        return [replica.training for replica in study.replicas]
    if name == "network":
        return [
            partial(_training, one, source) for one in study.replicas for source in sources(one)
        ]
    owners = [own for one in study.replicas for own in refinements(one)]
    return [partial(own.training, name) for own in owners]
