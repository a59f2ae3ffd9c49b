"""Every figure of the study is drawn from one small table, in one style.

``figures/<profile>/<name>.csv`` is all that ``<name>.png`` and ``<name>.pdf`` are drawn from; a
figure made of pictures has them in ``<name>.pixels.png`` and their places there in its table.
A picture says in its metadata what it was drawn from, as `checksum` has it.
``figures.toml`` lists all. ``python -m ribkit.results.figures`` redraws them.
"""

import argparse
import hashlib
import shutil
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Image, Markdown
from matplotlib.figure import Figure
from PIL import Image as Pillow

from ribkit.results import plots, special_figures, style
from ribkit.results.style import Pictures
from ribkit.runtime.command import command
from ribkit.runtime.errors import InputError, resource_errors
from ribkit.runtime.files import atomic_write
from ribkit.study.inputs import ROOT
from ribkit.study.study import Study

FIGURES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
PIXELS = ".pixels.png"
NO_DATE = {".png": {"Software": None}, ".pdf": {"CreationDate": None, "Producer": None}}
DRAWN_FROM = {".png": "Comment", ".pdf": "Keywords"}  # where `checksum` stands in the metadata
GALLERIES = {name for name, settings in FIGURES.items() if settings.get("kind") == "gallery"}
# These show images; photographs of data sets are nobody's to hand on
UNPUBLISHED = GALLERIES - {"photographs", "toy_gradients"}


def draw(name: str, content: pd.DataFrame | Pictures) -> Figure:
    """A figure of ``figures.toml``, drawn from its table or its pictures."""
    settings = dict(FIGURES[name])
    kind, figsize = settings.pop("kind", None), settings.pop("figsize", None)
    fill = getattr(plots, kind) if kind else getattr(special_figures, name)
    with style.styled():
        drawn = Figure(figsize, layout="constrained")
        fill(drawn, content, **settings)
        drawn.get_layout_engine().execute(drawn)  # makes the ticks too, once for all formats
        drawn.set_layout_engine("none")
    return drawn


def save(name: str, content: pd.DataFrame | Pictures, folder: Path) -> Figure:
    """Write what a figure is drawn from, read it back, draw from that, and write PNG and PDF."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.csv"
    if not isinstance(content, pd.DataFrame):
        content, sheet = style.pack(content)
        with atomic_write(path.with_suffix(PIXELS)) as partial:
            Pillow.fromarray(sheet).save(partial, format="png", optimize=True)
    with atomic_write(path) as partial:
        content.to_csv(partial, index=False, float_format="%.6g", lineterminator="\n")
    return redraw(path)


def show(study: Study, name: str, content: pd.DataFrame | Pictures) -> Image:
    """`save` a figure under ``build/<profile>/figures``; the picture, for a notebook."""
    with resource_errors(name):
        drawn = save(name, content, study.folder / "figures")
    width = round(96 * drawn.get_figwidth())
    path = study.folder / "figures" / f"{name}.png"
    return Image(filename=path, width=width, alt=f"figure {name.replace('_', ' ')}")


def tell(study: Study, name: str, text: str) -> Markdown:
    """Keep a paragraph beside the figures, as ``<name>.md``; the paragraph, for a notebook."""
    path = study.folder / "figures" / f"{name}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.write_text(f"{text}\n")
    return Markdown(text)


def redraw(path: Path) -> Figure:
    """Draw a figure from its table, ``<name>.csv``, into ``<name>.png`` and ``.pdf`` beside it.

    Raises InputError: it is no figure's table, or the pictures beside it are missing or damaged.
    """
    if path.stem not in FIGURES:
        raise InputError(f"{path} belongs to no figure; the figures are {', '.join(FIGURES)}.")
    table = read(path)
    drawn = draw(path.stem, _pictures(path, table) if "panel" in table else table)
    for suffix, metadata in NO_DATE.items():
        metadata = metadata | {DRAWN_FROM[suffix]: checksum(path)}
        look = {"format": suffix[1:], "bbox_inches": "tight", "metadata": metadata}
        with atomic_write(path.with_suffix(suffix)) as partial, style.styled():
            drawn.savefig(partial, **look)
    return drawn


def checksum(path: Path) -> str:
    """SHA-256 of what a figure is drawn from: its table, and its pictures if there are any."""
    files = [file for file in (path, path.with_suffix(PIXELS)) if file.is_file()]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def read(path: Path) -> pd.DataFrame:
    """A figure's table; what was empty is NaN, names are text."""
    names = dict.fromkeys(("name", "panel", "image"), str)  # digits keep their zeros
    return pd.read_csv(path, keep_default_na=False, na_values=[""], dtype=names)


def _pictures(path: Path, table: pd.DataFrame) -> Pictures:
    sheet = path.with_suffix(PIXELS)
    try:
        with Pillow.open(sheet) as image:
            return style.unpack(table, np.asarray(image.convert("RGB")))
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's, and unpack's
        raise InputError(
            f"{sheet}, the pictures of {path.name}, cannot be used ({error}); restore both."
        ) from error


def publish(study: Study, names: Iterable[str], target: Path) -> None:
    """Copy figures, tables and paragraphs of a run to where they are kept, but for photographs.

    names: of their files in the run's folder.
    """
    target.mkdir(parents=True, exist_ok=True)
    for name in sorted(names):
        if study.profile.data == "scenes" or name.partition(".")[0] not in UNPUBLISHED:
            with atomic_write(target / name) as partial:
                shutil.copyfile(study.folder / "figures" / name, partial)


@command("the figures")
def main(argv: list[str] | None = None) -> None:
    """Redraw all figures that are kept."""
    argparse.ArgumentParser("ribkit.results.figures", description=main.__doc__).parse_args(argv)
    for path in sorted((ROOT / "figures").glob("*/*.csv")):
        redraw(path)
        print(path.with_suffix("").relative_to(ROOT))


if __name__ == "__main__":
    sys.exit(main())
