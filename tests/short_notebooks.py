"""The notebooks with parameters of a short run, for nbval: ``python tests/short_notebooks.py DIR``.

Short trainings, one candidate of each, two replicas, few ablations; and few images where none of
what is compared is of all of them (`WHOLE`). ``pytest --nbval notebooks`` runs the notebooks as
they are, which takes as long as ``make reproduce``.
"""

import sys
from pathlib import Path

from papermill.iorw import load_notebook_node, write_ipynb
from papermill.parameterize import parameterize_notebook

SHORT = {
    "pretext_scenes": 320, "pretext_epochs": 1, "classifier.epochs": 1, "scale_sets": [[1.0]],
    "lrs": [1e-5],
    "margins": [0.0], "replicas": 2, "psa_alphas": [8.0], "psa_log2_steps": [4], "val_images": 12,
    "irn.epochs": 1, "psa.epochs": 1, "network.iterations": 10, "network.batch": 4,
    "smoothings": [0.0], "percentiles": [100.0], "norms": [0.4], "irn_log2_steps": [3],
    "toy_seeds": 2, "toy_steps": 10, "toy_dose_seeds": 2,
    "ablations.images": 4, "ablations.taus": [0.4],
    "ablations.steps": [1], "ablations.lrs": [3.0], "ablations.margins": [0.0],
    "ablations.n_others": [1],
    "ablations.usual_textures": [1.0],
}  # fmt: skip
FEW = {
    "train_images": 24,
    "score_images": 6,
    "tune_images": 4,
    "bank_images": 8,
    "classifier.batch": 8,
}
WHOLE = ("01", "02")  # notebooks that compare counts and checksums of digits or scenes


def main(folder: Path) -> None:
    """Write them."""
    folder.mkdir(parents=True, exist_ok=True)
    for source in sorted((Path(__file__).parents[1] / "notebooks").glob("[0-9]*.ipynb")):
        overrides = SHORT if source.name.startswith(WHOLE) else SHORT | FEW
        notebook = parameterize_notebook(load_notebook_node(str(source)), {"overrides": overrides})
        write_ipynb(notebook, str(folder / source.name))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
