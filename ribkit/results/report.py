"""What the report is made of: all claims, the figures that decide them, our numbers beside others'.

    python -m ribkit.results.report build/mini/07_report.ipynb build/report.html

writes an executed notebook as one HTML file that opens without a network.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from ribkit.results import claims, tables, tables_ablations, tables_rq4, tables_toy
from ribkit.results.claims import CLAIMS, Measured
from ribkit.runtime.errors import InputError
from ribkit.study.study import Study

DECIDING: dict[str, Callable[[Study], pd.DataFrame]] = {
    "toy_hgr": lambda study: tables_toy.curve(study.toy().table("hgr")),
    "toy_last_drop": lambda study: tables_toy.region_drops(study.toy().table("hgr")),
    "layers": tables_ablations.layers,
    "activations": tables_ablations.activations,
    "coverage": tables.coverage,
    "replicas": tables.replicas,
    "adaptations": tables_ablations.adaptations,
    "refinement": tables_rq4.refinement_scores,
    "network": tables_rq4.network_scores,
}
"""Figure that decides a claim -> its table."""


def measured(study: Study) -> dict[str, Measured]:
    """What this run measured of each claim, by the claim's name."""
    return tables.measured(study) | tables_rq4.measured(study) | tables_ablations.measured(study)


def deciding() -> list[str]:
    """The figures that decide the claims, in the claims' order."""
    return list(dict.fromkeys(claim.figure for claim in CLAIMS))


def headline(study: Study) -> pd.DataFrame:
    """This run's numbers in the columns of `claims.reported`; its setting in every row's name."""
    p = study.profile
    name = f"{p.name}, {len(study.scored)} images, {len(study.scored.classes)} classes"
    stages = tables_rq4.refinement_scores(study).set_index(["method", "stage"])
    nets = tables_rq4.network_scores(study).set_index(["trained on", "CRF"])
    rows = []
    for method in ("CAM", "RIB"):
        row = {"method": f"{method} + IRN ({name})"}
        for column, stage in zip(
            claims.reported().columns[1:4], ("seed", "+ CRF", "+ IRN"), strict=True
        ):
            row[column] = f"{stages.loc[(method, stage), 'miou']:.1f}"
        row["network, val"] = f"{nets.loc[(method, 'with CRF'), 'miou']:.1f}"
        rows.append(row)
    if ("RIB + saliency", "with CRF") in nets.index:
        saliency = f"{nets.loc[('RIB + saliency', 'with CRF'), 'miou']:.1f}"
        rows.append({"method": f"RIB + saliency ({name})", "network, val": saliency})
    ceiling = f"{nets.loc[('ground truth', 'with CRF'), 'miou']:.1f}"
    rows.append({"method": f"true masks, the ceiling ({name})", "network, val": ceiling})
    return pd.DataFrame(rows).fillna("")


def html(notebook: Path, target: Path) -> None:
    """One HTML file of an executed notebook: pictures inside, nothing fetched when it is opened."""
    import nbformat
    from nbconvert import HTMLExporter

    if not notebook.is_file():
        raise InputError(f"{notebook} is missing; make it first: make reproduce.")
    exporter = HTMLExporter(
        embed_images=True, exclude_input_prompt=True, exclude_output_prompt=True,
        mathjax_url="", require_js_url="", jquery_url="", mermaid_js_url="",
    )  # fmt: skip
    page, _ = exporter.from_notebook_node(nbformat.read(notebook, as_version=4))
    page = re.sub(r"<script[^>]*\bsrc=[^>]*>\s*</script>", "", page)
    page = re.sub(r"<script type=\"module\">.*?</script>", "", page, flags=re.DOTALL)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page)


if __name__ == "__main__":
    try:
        html(Path(sys.argv[1]), Path(sys.argv[2]))
    except InputError as error:
        sys.exit(str(error))
