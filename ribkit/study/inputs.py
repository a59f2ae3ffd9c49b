"""What a study reads: its images, digits and weights, and the check of all of them."""

from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np

from ribkit.data import coco, digits, photographs, scenes, voc
from ribkit.data.digits import Digits
from ribkit.data.images import ImageSet
from ribkit.networks import architectures
from ribkit.refinement import saliency
from ribkit.runtime.errors import InputError, Problems, few
from ribkit.runtime.files import resolved
from ribkit.runtime.keys import describe
from ribkit.study.profiles import Profile

ROOT = Path(__file__).parents[2]
PART = 5000  # images of one stored result, at most
NEEDED = {
    "voc": "a folder in VOC layout; name it: make reproduce PROFILE={} DATA=path/to/VOC2012",
    "coco": "MS COCO 2014; name its folder: make reproduce PROFILE={} DATA=path/to/coco",
    "folder": "photographs and their labels; name both: python -m ribkit.{} FOLDER --labels FILE",
}
PICTURED = "efficientnet_lite0"  # the network that photographs are shown with


def needed(profile: Profile) -> str:
    """What a profile needs beside its settings, in a sentence."""
    return f"profile {profile.name} needs {NEEDED[profile.data].format(profile.name)}."


class Inputs:
    """The inputs of one run of the study. InputError: its profile needs a folder and none is
    named, or the other way round."""

    def __init__(self, profile: Profile, data: str):
        self.profile = profile
        if profile.data in NEEDED and not data:
            raise InputError(needed(profile))
        if data and profile.data not in NEEDED:
            raise InputError(
                f"profile {profile.name} draws its images and reads no folder, {data}; name the "
                "profile that does (PROFILE=voc-lite, voc or coco), or leave DATA out. Digits are "
                'named PARAMS="digits=path/to/folder".'
            )
        self.given = resolved(data) if data else None  # in VOC's layout or in COCO's

    @cached_property
    def data(self) -> Path | None:
        """The folder in VOC layout that images are read from; COCO is converted to one, once."""
        if self.profile.data == "coco":
            return coco.as_voc(self.given, ROOT / "build" / "data")
        return self.given

    def check(self) -> str:
        """Read all input; say in a few words what there is. InputError: all that is wrong."""
        p, problems = self.profile, Problems()
        if p.data != "scenes" and problems.collect(lambda: self.data):
            splits = {p.train_split, p.score_split, p.val_split, p.label_split} - {""}
            if problems.collect(lambda: (self.scored, self.train, self.tuning)):
                problems.collect(lambda: self.validation)
            problems.collect(voc.check, self.data, sorted(splits), p.classes, self._masked())
        if p.saliency not in ("", "scenes"):
            problems.collect(saliency.ready, p.saliency)
            for images in problems.collect(lambda: (self.scored, *self.remaining_images)) or ():
                problems.collect(saliency.check, images, p.saliency)
        for network in self.backbones:
            file = problems.collect(p.imagenet_weights, network)
            problems.collect(architectures.require_weights, network, file)
        problems.collect(photographs.shipped)
        problems.collect(self.digits)
        problems.tell()
        if p.data == "scenes":  # which need not be drawn to be counted
            counts, classes = [p.score_images, p.train_images, p.tune_images], scenes.CLASSES
        else:
            counts = [len(images) for images in (self.scored, self.train, self.tuning)]
            classes = self.scored.classes
        found = "{} images to score, {} to train on, {} to tune on".format(*counts)
        if p.label_split:
            found += f", {sum(map(len, self.remaining_images))} further to make labels for"
        notes = [] if p.data == "scenes" else self._notes()
        return "\n".join([f"{p.name}: {found}, {len(classes)} classes", *notes])

    def _masked(self) -> set[str]:
        """Images whose masks are read; while labels are at fault, all that may be among them."""
        p, untold = self.profile, Problems()
        sets = untold.collect(
            lambda: (self.scored, self.tuning, self.validation, *self.remaining_images)
        )
        if sets:
            return {name for images in sets for name in images.ids}
        lists = {p.score_split, p.val_split, p.label_split} - {""}
        ids = (untold.collect(voc.split_ids, self.data, split) or () for split in lists)
        return set(chain.from_iterable(ids))

    def _notes(self) -> list[str]:
        """What the labels lack for the classifier to learn from, or for RIB's other images."""
        train, most = self.train, max(self.profile.n_others)
        notes = [
            f"Every image to train on shows {name}: the classifier cannot tell it; add others."
            for name in np.array(train.classes)[train.labels.all(axis=0)]
        ]
        labels = [images.labels for images in (self.scored, self.tuning, *self.remaining_images)]
        shared = np.concatenate(labels).astype(np.float32) @ self.others.labels.T
        short = int(((shared == 0).sum(axis=1) < most).sum())
        if short:
            notes.append(
                f"{short} of {len(shared)} images have fewer than n_others={most} others, images "
                f"to train on without their classes: add some, or set bank_images to more."
            )
        return notes

    @property
    def backbones(self) -> list[str]:
        """Those that may have ImageNet weights, each once."""
        names = (self.profile.backbone, self.profile.network_backbone, PICTURED)
        return list(dict.fromkeys(names))

    def inputs(self) -> list:
        """What the study reads, for a key; scenes are made by the code, from the profile."""
        p, parts = self.profile, []
        if p.data != "scenes":
            parts = [self.train, self.tuning, self.scored, *self.remaining_images, self.validation]
        if p.saliency not in ("", "scenes", "u2netp"):
            labelled = (self.scored, *self.remaining_images)
            parts += [saliency.Folder(p.saliency, images.ids) for images in labelled]
        parts += map(p.imagenet_weights, self.backbones)
        return [describe(part) for part in (*parts, self.digits(), p)]

    # ---- images -------------------------------------------------------------------------------
    @cached_property
    def train(self) -> ImageSet:
        """Images that the classifier is trained on, those without any class too.

        The scored ones may be among them (VOC).
        """
        return self._images(1, self.profile.train_split, self.profile.train_images)

    @property
    def others(self) -> ImageSet:
        """Those of them that the others of an adaptation are drawn from."""
        return some(self.train, self.profile.bank_images, self.profile.rng_seed)

    @cached_property
    def scored(self) -> ImageSet:
        """Images whose maps and labels are scored."""
        p = self.profile
        if p.data == "scenes":
            return self._scenes(2, p.score_images)
        return some(self._outside(p.score_split), p.score_images, p.rng_seed)

    @cached_property
    def tuning(self) -> ImageSet:
        """Images that settings and held-out thresholds are chosen on; never scored."""
        p = self.profile
        if p.data == "scenes":
            return self._scenes(3, p.tune_images)
        free = self._outside(p.train_split, self.scored)
        if len(free) < p.tune_images:
            raise InputError(
                f"{self.data / voc.LIST.format(p.train_split)} has {len(free)} images that "
                f"show a class and are not scored, and tune_images={p.tune_images} are needed: set "
                "score_images to fewer, or tune_images."
            )
        return some(free, p.tune_images, p.rng_seed)

    @cached_property
    def remaining_images(self) -> tuple[ImageSet, ...]:
        """Images of `label_split` neither scored nor tuned on, `PART` at a time; none without it.

        Pseudo ground truth is made of them too. A segmentation network learns from the scored and
        from these: tuning images stay out of its training.
        """
        if not self.profile.label_split:
            return ()
        left = self._outside(self.profile.label_split, self.scored, self.tuning)
        indices = np.arange(len(left))
        return tuple(left.take(indices[k : k + PART]) for k in range(0, len(left), PART))

    @cached_property
    def validation(self) -> ImageSet:
        """Images that segmentation networks are scored on, seen by nothing before.

        InputError: one of them was trained on, tuned on, or labelled.
        """
        images = self._images(4, self.profile.val_split, self.profile.val_images)
        if self.profile.data != "scenes":
            sets = (self.train, self.tuning, self.scored, *self.remaining_images)
            seen = {name for others in sets for name in others.ids}
            if shared := [name for name in images.ids if name in seen]:
                raise InputError(
                    f"{self.data / voc.LIST.format(self.profile.val_split)} lists {few(shared)}, "
                    "which networks learn from too; list images there that no other list has."
                )
        return images

    def _images(self, stream: int, split: str, count: int) -> ImageSet:
        """``count`` scenes of a stream, or images of a split."""
        p = self.profile
        if p.data == "scenes":
            return self._scenes(stream, count)
        return some(self._split(split), count, p.rng_seed)

    def _scenes(self, stream: int, count: int) -> ImageSet:
        usual_texture = self.profile.usual_texture
        return scenes.generate(self.stream(stream), count, usual_texture=usual_texture)

    def _outside(self, split: str, *sets: ImageSet) -> ImageSet:
        """Images of a split that show a class, which CAM needs, and are in none of these sets."""
        images, taken = self._split(split), {name for others in sets for name in others.ids}
        shown = images.labels.any(axis=1)
        free = [i for i, name in enumerate(images.ids) if shown[i] and name not in taken]
        return images.take(free)

    def _split(self, name: str) -> ImageSet:
        """The images of a split. InputError: none shows one of the classes."""
        images = voc.read(self.data, name, self.profile.classes)
        if not images.labels.any():
            raise InputError(
                f"{self.data / voc.LIST.format(name)} lists no image that shows one of the classes "
                f"({', '.join(images.classes)}); set classes to others."
            )
        return images

    def stream(self, number: int) -> int:
        """The seed of one of the study's sets of scenes."""
        return 1000 * self.profile.rng_seed + number

    def digits(self, dose: float = digits.SHARE) -> Digits:
        """2 and 8 with their shapes: MNIST if the profile names a folder, else the bundled ones.

        dose: the share of the training images that have a shape.
        """
        p = self.profile
        return digits.load(p.digits, p.toy_train, p.toy_test, p.rng_seed, dose)


def first(images: ImageSet, count: int) -> ImageSet:
    """The first images of a set, ``count`` at most."""
    return images.take(range(min(count, len(images))))


def some(images: ImageSet, count: int, rng_seed: int) -> ImageSet:
    """``count`` of the images, drawn by the seed, in their old order; all, if 0 or too many."""
    if count == 0 or count >= len(images):
        return images
    chosen = np.random.default_rng(rng_seed).permutation(len(images))[:count]
    return images.take(np.sort(chosen))
