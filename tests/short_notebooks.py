"""The notebooks with parameters of a short run, for nbval: ``python tests/short_notebooks.py DIR``.

The same images, K and B, so that what is compared is compared as it was committed; but short
trainings, one candidate of each, two replicas and few ablations. ``pytest --nbval notebooks`` runs
them as they are, which takes as long as ``make reproduce``.
"""

import sys
from pathlib import Path

from papermill.iorw import load_notebook_node, write_ipynb
from papermill.parameterize import parameterize_notebook

SHORT = {
    "pretext_scenes": 320, "pretext_epochs": 1, "epochs": 1, "scale_sets": [[1.0]], "lrs": [1e-5],
    "margins": [0.0], "replicas": 2, "psa_alphas": [8.0], "psa_log2_steps": [4], "val_images": 12,
    "irn.epochs": 1, "psa.epochs": 1, "network.iterations": 10, "network.batch": 4,
    "smoothings": [0.0], "percentiles": [100.0], "norms": [0.4], "irn_log2_steps": [3],
    "toy_seeds": 2, "toy_steps": 10, "toy_dose_seeds": 2,
    "ablations.images": 4, "ablations.taus": [0.4],
    "ablations.steps": [1], "ablations.lrs": [3.0], "ablations.margins": [0.0],
    "ablations.n_others": [1],
    "ablations.usual_textures": [1.0],
}  # fmt: skip


def main(folder: Path) -> None:
    """Write them."""
    folder.mkdir(parents=True, exist_ok=True)
    for source in sorted((Path(__file__).parents[1] / "notebooks").glob("[0-9]*.ipynb")):
        notebook = parameterize_notebook(load_notebook_node(str(source)), {"overrides": SHORT})
        write_ipynb(notebook, str(folder / source.name))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
