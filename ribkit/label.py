"""Pseudo labels of one's own photographs, from image-level labels: no mask is read anywhere.

    python -m ribkit.label my_photographs --labels labels.csv

trains a classifier on them, makes CAM or RIB seeds, takes a threshold that needs no mask, refines
by the CRF (and IRN), and writes ``my_photographs_labels`` in VOC layout: palette PNGs of the
photographs' own size, the photographs as JPEG, their list ``train``, the classifier, and contact
sheets to look at. Interrupted, the same command goes on.

Settings are those of the profile ``label``. RIB's rate (8e-5 at the scales 1.0 and 1.5) was chosen
with masks, on photographs of five animals of PASCAL VOC and with this network, EfficientNet-Lite0;
nothing tells whether it is the best for others.
"""

import argparse
import difflib
import json
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ribkit.data import export, image_labels, photographs, views, voc
from ribkit.data.image_labels import Shown
from ribkit.data.images import ImageSet
from ribkit.data.photographs import Photographs
from ribkit.networks.architectures import Weights
from ribkit.results import sheets
from ribkit.results.sheets import Row
from ribkit.runtime.command import command
from ribkit.runtime.errors import InputError, few, say
from ribkit.runtime.files import atomic_write, resolved
from ribkit.runtime.progress import bar
from ribkit.runtime.store import StoredArrays
from ribkit.study import weights as files
from ribkit.study.command_line import add_common, overrides, use_machine
from ribkit.study.study import CAM, RIB
from ribkit.study.unmasked import Unmasked, UnmaskedRefinement

METHODS = {"cam": CAM, "rib": RIB}
SEEN = 512  # pixels, at most, of a photograph's long side for everything but the writing
ROWS, SHEETS = 20, 5  # of a sheet; of a run: the photographs on them are spread evenly
FEW = 10  # photographs of a class, below which there is a warning
SHOWN = 256  # pixels of a photograph's long side on a sheet
RECORD, CLASSIFIER = "label.json", "classifier.safetensors"  # in the folder that is written


@dataclass(frozen=True)
class PseudoLabels:
    """What was written.

    folder: In VOC layout, split ``train``. threshold: Of the maps. classes: A row for each class:
    its ``value`` in the masks, the ``photographs`` that are said to show it, in how many of them it
    was ``found``, and the ``area`` that it has there, in %.
    """

    folder: Path
    threshold: float
    classes: pd.DataFrame


def label(
    folder: str | Path,
    labels: str | Path | Shown,
    out: str | Path = "",
    method: str = "cam",
    irn: bool = False,
    threshold: float | None = None,
    weights: str | Path = "",
    settings: Mapping | None = None,
) -> PseudoLabels:
    """Pseudo labels of every photograph in a folder of which the labels say what it shows.

    Photographs without an entry are passed over, with a warning. Those with an empty one show no
    class: the classifier learns from them too, and all their pixels are background.

    Args:
        folder: Of photographs of any size.
        labels: A file, see `ribkit.data.image_labels`, or file name -> names of classes.
        out: Where to write; empty: beside the folder, with ``_labels`` behind its name.
        method: ``cam``, or ``rib``, which takes three to six times as long in all.
        irn: Whether IRN learns from the seeds and walks on them, before the CRF.
        threshold: Of the maps, between 0 and 1; None: Otsu's, of all maps together.
        weights: A classifier that an earlier run wrote; empty: one is trained on the photographs.
        settings: Of the profile ``label``, by name.

    Raises:
        InputError: Folder, labels or settings do not suit, or the folder to write to holds
            something else.
    """
    if method not in METHODS:
        raise InputError(f"method {method!r} is unknown; use one of {', '.join(METHODS)}.")
    if threshold is not None and not 0 <= threshold < 1:
        raise InputError(f"threshold {threshold} is out of range; give one from 0 to below 1.")
    folder, trained, settings = resolved(folder), None, dict(settings or {})
    out = resolved(out) if out else folder.with_name(f"{folder.name}_labels")
    classes: tuple[str, ...] = ()
    if weights:
        trained = Weights(resolved(weights))
        backbone, classes = files.read(trained)
        if settings.setdefault("backbone", backbone) != backbone:
            raise InputError(f"{weights} is of {backbone}; leave the setting backbone out.")
    images = _images(folder, labels, classes)
    if not trained:
        _require_tellable(images)
        _warn_of_few(images)
    _require_own(out, images)
    seen = replace(images, source=replace(images.source, long_side=SEEN))
    study = Unmasked(folder, seen, settings, trained)
    chain = UnmaskedRefinement(study, METHODS[method], threshold)
    out.mkdir(parents=True, exist_ok=True)
    (_, maps), name = chain.scored, "+ IRN + CRF" if irn else "+ CRF"
    found = chain.labels(name, seen, maps).arrays("labels")
    used = chain.irn_threshold if irn else chain.threshold
    maps = chain.irn_maps(seen, maps) if irn else maps

    about = {"method": method, "irn": irn, "threshold": used, "settings": settings}
    with atomic_write(out / RECORD) as path:
        path.write_text(json.dumps(about, indent=1, default=str) + "\n")
    export.pseudo_ground_truth(out, [(images, found)], "train")
    tensors, backbone = study.classifier.tensors("weights"), study.profile.backbone
    files.save(out / CLASSIFIER, tensors, backbone, images.classes)
    _draw(out, seen, maps, found, used)
    return PseudoLabels(out, used, _table(images, found))


# ---- what is read -------------------------------------------------------------------------------
def _images(folder: Path, labels: str | Path | Shown, classes: Sequence[str]) -> ImageSet:
    """The photographs that have labels, under their names without suffix."""
    source, where = photographs.folder(folder, 0), "labels"
    if isinstance(labels, str | Path):
        where = str(labels)
        listed, given = image_labels.read(resolved(labels))
    else:
        listed, given = image_labels.checked(labels, (), where)
    names, paths = _stems(source)
    if absent := [str(name) for name in listed if name not in names]:
        raise InputError(f"{where}: not in {folder}: {few(absent)}; correct the names.")
    told: dict[str, Sequence[str]] = {}
    for name, those in listed.items():
        if names[name] in told:
            raise InputError(f"{where} names {names[name]} twice; leave one of the two.")
        told[names[name]] = those
    if missing := [paths[stem].name for stem in paths if stem not in told]:
        sentence = f"{where}: passed over, as they have no entry: {few(missing)}."
        warnings.warn(sentence, stacklevel=3)
    classes = classes or given
    if unknown := sorted(set(given) - set(classes)):
        raise InputError(
            f"{where}: {unknown[0]!r} is no class of the classifier; its are {', '.join(classes)}."
        )
    kept = replace(source, paths={stem: path for stem, path in paths.items() if stem in told})
    return kept.labelled(classes, [[classes.index(c) for c in told[stem]] for stem in kept.ids])


def _stems(source: Photographs) -> tuple[dict[str, str], dict[str, Path]]:
    """Name, with or without suffix -> stem; stem -> file. InputError: one that cannot be listed."""
    paths: dict[str, Path] = {}
    for path in source.paths.values():
        if path.stem in paths:
            raise InputError(
                f"{path} and {paths[path.stem].name} would have one name; rename one of them."
            )
        if not path.stem.isprintable() or path.stem != path.stem.strip() or "\\" in path.stem:
            raise InputError(f"{str(path)!r} has a name that no list can hold; rename it.")
        paths[path.stem] = path
    return {stem: stem for stem in paths} | {p.name: p.stem for p in paths.values()}, paths


def _require_tellable(images: ImageSet) -> None:
    """InputError for a class that every photograph shows: no classifier can learn it."""
    for name in np.array(images.classes)[images.labels.all(axis=0)]:
        raise InputError(
            f"all {len(images)} photographs show {name}, so that a classifier cannot learn what it "
            "looks like; add some without it, and labels that say so."
        )


def _warn_of_few(images: ImageSet) -> None:
    """A warning for classes that few photographs show, misspelt ones among them."""
    counts = dict(zip(images.classes, images.labels.sum(axis=0), strict=True))
    told = []
    for name, count in counts.items():
        if count < FEW:
            others = [other for other in counts if counts[other] > count]
            like = difflib.get_close_matches(name, others, 1)
            told.append(f"{name} ({', or '.join([str(count), *like])})")
    if told:
        sentence = f"few photographs show {few(told)}; a classifier learns little from less than "
        warnings.warn(f"{sentence}{FEW}: add some, or correct the name.", stacklevel=3)


def _require_own(out: Path, images: ImageSet) -> None:
    """InputError for a folder to write to that holds other things than labels of these images."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    path = out / voc.LIST.format("train")
    if not (out / RECORD).is_file():
        raise InputError(f"{out} holds other things; give a new folder by --out.")
    others = sorted(set(voc.read_list(path)) - set(images.ids)) if path.is_file() else ()
    if others:
        raise InputError(
            f"{out} holds labels of other photographs, as of {others[0]}; give a new folder by "
            "--out, or remove it."
        )


# ---- what is written ----------------------------------------------------------------------------
def _table(images: ImageSet, found: StoredArrays) -> pd.DataFrame:
    areas = np.array([
        np.bincount(found[name].ravel(), minlength=len(images.classes) + 1) / found[name].size
        for name in images.ids
    ])[:, 1:]  # fmt: skip
    at = areas > 0
    area = 100 * areas.sum(axis=0) / np.maximum(1, at.sum(axis=0))
    columns = {"class": images.classes, "value": export.values(images.classes)}
    columns |= {"photographs": images.labels.sum(axis=0), "found": at.sum(axis=0), "area": area}
    return pd.DataFrame(columns)


def _draw(
    out: Path, images: ImageSet, maps: StoredArrays, found: StoredArrays, threshold: float
) -> None:
    """The contact sheets ``sheet1.png``, ..., in place of those of a run before."""
    for path in out.glob("sheet*.png"):
        path.unlink()
    count = min(len(images), ROWS * SHEETS)
    shown = images.take(np.linspace(0, len(images) - 1, count).round())
    starts = range(0, count, ROWS)
    for number, start in enumerate(bar(starts, "contact sheets", len(starts)), start=1):
        page = shown.take(range(start, min(start + ROWS, count)))
        drawn = sheets.sheet(list(_rows(page, maps, found)), images.classes, threshold)
        with atomic_write(out / f"sheet{number}.png") as path:
            drawn.savefig(path, format="png", dpi=200, bbox_inches="tight")


def _rows(images: ImageSet, maps: StoredArrays, found: StoredArrays) -> Iterator[Row]:
    for image in images:
        pixels = views.resized_image(image.pixels(), SHOWN)
        size, name = pixels.shape[:2], image.name
        highest = views.resize_maps(maps[name], size).max(axis=0, initial=0)
        labels = views.resize_labels(torch.from_numpy(found[name]), size).numpy()
        named = ", ".join([name, *np.array(images.classes)[image.classes]])
        yield Row(named, pixels, highest, labels)


@command("ribkit.label")
def main(argv: list[str] | None = None) -> None:
    """Do what the command line asks for, say what was written."""
    about = argparse.RawDescriptionHelpFormatter
    arguments = argparse.ArgumentParser("ribkit.label", description=__doc__, formatter_class=about)
    arguments.add_argument("folder", help="of photographs")
    arguments.add_argument("--labels", required=True, help="JSON, or CSV: a.jpg,cat;dog")
    arguments.add_argument("--method", choices=METHODS, default="cam")
    arguments.add_argument("--irn", action="store_true", help="IRN before the CRF")
    arguments.add_argument("--threshold", type=float, help="of the maps; Otsu's, unless given")
    arguments.add_argument("--out", default="", help="FOLDER_labels, unless given")
    arguments.add_argument("--weights", default="", help=f"{CLASSIFIER} of an earlier run")
    add_common(arguments)
    options = vars(arguments.parse_args(argv))
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: say(message)
        use_machine(options.pop("device"))
        done = label(settings=overrides(options.pop("set")), **options)
    print(f"{done.classes.to_string(index=False, float_format='%.1f')}\n")
    print(f"Threshold {done.threshold:.2f}. Look at {done.folder / 'sheet1.png'} first.")


if __name__ == "__main__":
    sys.exit(main())
