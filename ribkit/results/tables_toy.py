"""Small tables and pictures of the toy experiment: curves and drops of HGR, doses, masking.

Tables are made of the table "hgr" of `ribkit.study.toy.experiment`, unless they say of what, and
end in mean, low, high and n: a 95 % interval, Student's t over the seeds, which differ in initial
weights and batches but share the images.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ribkit.data.digits import Digits
from ribkit.evaluation.intervals import combined, worded
from ribkit.results.style import Pictures
from ribkit.runtime.store import Result
from ribkit.study.toy import EXAMPLE_MAPS, PAPER_HGR

KEYS = ["activation", "condition", "output", "reading"]
PAPER_DROPS = {region: hgr[-2] - hgr[-1] for region, hgr in PAPER_HGR.items()}  # from G5 to G6
PAPER_MORE = PAPER_DROPS["non-discriminative"] - PAPER_DROPS["discriminative"]
"""How much more the shape loses than the digit from G5 to G6 in the paper's curve."""
# label and whether its shape is there -> title
EXAMPLES = {
    (0, False): "2",
    (0, True): "2, with its disc",
    (1, False): "8",
    (1, True): "8, with its square",
}


def interval(values) -> pd.Series:
    """mean, low, high (95 % t interval) and n of the finite values; no interval for n < 2."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    ends = combined(values, 0.0, 1) if len(values) else [np.nan] * 3
    return pd.Series([*ends, len(values)], ["mean", "low", "high", "n"])


def text(found: pd.Series, form: str = ".2f") -> str:
    """An `interval` as text."""
    return worded(found[["mean", "low", "high"]], form)


def means(table: pd.DataFrame, keys: list[str], column: str) -> pd.DataFrame:
    """`interval` of a column for each group of ``keys``, a row each, in order of appearance."""
    groups = table.groupby(keys, sort=False)[column]
    rows = [{**dict(zip(keys, key, strict=True)), **interval(group)} for key, group in groups]
    return pd.DataFrame(rows).astype({"n": int})


def _gains(
    rows: pd.DataFrame, keys: list[str], column: str, after: str, before: str, of: str = "hgr"
) -> pd.DataFrame:
    """`means` of ``of`` where a column is ``after`` less where it is ``before``, paired by seed."""
    wide = rows.pivot_table(of, [*keys, "seed"], column, sort=False)
    return means((wide[after] - wide[before]).dropna().rename("gain").reset_index(), keys, "gain")


def _at(hgr: pd.DataFrame, scale: str = "image", threshold: float = 0.3) -> pd.DataFrame:
    return hgr[(hgr.scale == scale) & np.isclose(hgr.threshold, threshold)]


def curve(hgr: pd.DataFrame) -> pd.DataFrame:
    """Figure 1's curve, by region and layer, of the first activation, and the ``paper``'s.

    Every layer after its own activation, outputs summed; the interval is cut to [0, 1].
    """
    rows = _at(hgr).query("condition == 'trained' and reading == 'after' and output == 'sum'")
    rows = rows[rows.activation == hgr.activation.iloc[0]]
    table = means(rows, ["region", "layer"], "hgr").sort_values(["region", "layer"])
    table[["low", "high"]] = table[["low", "high"]].clip(0, 1)
    table["paper"] = [PAPER_HGR[r][k - 1] for r, k in zip(table.region, table.layer, strict=True)]
    return table


def _drops(rows: pd.DataFrame) -> pd.DataFrame:
    """HGR of G5, the summed output of the last ReLU, less HGR of G6: KEYS, seed, region, drop."""
    network = ["activation", "condition", "seed", "region"]
    fifth = rows.query("layer == 5 and reading == 'after'").set_index(network).hgr
    last = rows.query("layer == 6").join(fifth.rename("fifth"), network, validate="m:1")
    return last.assign(drop=last.fifth - last.hgr)


def region_drops(hgr: pd.DataFrame) -> pd.DataFrame:
    """Mean drop from G5 to G6, by KEYS and region."""
    return means(_drops(_at(hgr)), [*KEYS, "region"], "drop")


def last_drop(hgr: pd.DataFrame, scale: str = "image", threshold: float = 0.3) -> pd.DataFrame:
    """How much more the non-discriminative region loses from G5 to G6 than the discriminative one.

    By KEYS. The paper: 0.76 - 0.23 = 0.53.
    """
    drops = _drops(_at(hgr, scale, threshold))
    return _gains(drops, KEYS, "region", "non-discriminative", "discriminative", "drop")


def sensitivity(hgr: pd.DataFrame) -> pd.DataFrame:
    """`last_drop` as text for every scale and threshold: one row per network and reading."""
    columns = {}
    for (scale, threshold), rows in hgr.groupby(["scale", "threshold"], sort=False):
        table = last_drop(rows, scale, threshold).set_index(KEYS)
        columns[f"{scale}, {threshold}"] = table.apply(text, axis=1)
    return pd.DataFrame(columns, index=table.index)


def removal(hgr: pd.DataFrame) -> pd.DataFrame:
    """HGR of G6 that taking the last activation off the *same* network gives back."""
    keys = ["activation", "condition", "output", "region"]
    return _gains(_at(hgr).query("layer == 6"), keys, "reading", "before", "after")


def removal_beyond_control(hgr: pd.DataFrame) -> pd.Series:
    """`removal` of the non-discriminative region less the same where the shape says nothing.

    Outputs summed, the first activation, paired over seeds.
    """
    rows = _at(hgr).query("layer == 6 and output == 'sum' and region == 'non-discriminative'")
    rows = rows[rows.activation == hgr.activation.iloc[0]]
    wide = rows.pivot(index="seed", columns=["condition", "reading"], values="hgr")
    beyond = wide["trained"] - wide["random shapes"]
    return interval(beyond["before"] - beyond["after"])


def trained_without(hgr: pd.DataFrame) -> pd.DataFrame:
    """HGR of networks trained without a last activation less that of the first activation's.

    G5 and G6 (own class, after), paired over seeds.
    """
    rows = _at(hgr).query("condition == 'trained' and reading == 'after'")
    rows = rows.query("layer == 5 or (layer == 6 and output == 'target')")
    return _gains(rows, ["layer", "region"], "activation", "none", hgr.activation.iloc[0])


def transmitted(hgr: pd.DataFrame) -> pd.DataFrame:
    """Mean absolute gradient of the own class, and the share that the last activation lets through.

    By activation, condition and region: gradient, share, share_low, share_high.
    """
    keys = ["activation", "condition", "region"]
    rows = _at(hgr).query("layer == 6 and output == 'target'")
    wide = rows.pivot_table("magnitude", [*keys, "seed"], "reading", sort=False).reset_index()
    shares = means(wide.assign(share=wide["after"] / wide["before"]), keys, "share")
    gradient = wide.groupby(keys, sort=False)["before"].mean()
    shares.insert(len(keys), "gradient", gradient.to_numpy())
    names = {"mean": "share", "low": "share_low", "high": "share_high"}
    return shares.drop(columns="n").rename(columns=names)


# ---- the dose: how many training images have their shape -----------------------------------------
def doses(found: Mapping[float, Result]) -> pd.DataFrame:
    """A row for each network of the first activation, by ``Study.toy_doses``.

    Columns dose, condition, seed, shape_only (accuracy from the shape alone), and, outputs summed,
    "G5 digit", "G6 digit", "drop digit" and the same of the shape: HGR, and what it loses.
    """
    regions = {"discriminative": "digit", "non-discriminative": "shape"}
    network, tables = ["activation", "condition", "seed"], []
    for dose, result in found.items():
        hgr, known = result.table("hgr"), result.table("networks").set_index(network)
        rows = _drops(_at(hgr)).query("output == 'sum' and reading == 'after'")
        rows = rows.rename(columns={"fifth": "G5", "hgr": "G6"}).replace({"region": regions})
        wide = rows.pivot(index=network, columns="region", values=["G5", "G6", "drop"])
        wide.columns = wide.columns.map(" ".join)
        wide = known[["shape_only"]].join(wide).loc[hgr.activation.iloc[0]].reset_index()
        tables.append(wide.assign(dose=dose))
    return pd.concat(tables)[lambda table: table["condition"] != "untrained"]


def dose_points(table: pd.DataFrame) -> pd.DataFrame:
    """Means of `doses`, by dose, condition and quantity: shape_only, and the two drops."""
    quantities = ["shape_only", "drop shape", "drop digit"]
    rows = table.melt(["dose", "condition", "seed"], quantities, "quantity")
    return means(rows, ["dose", "condition", "quantity"], "value")


def dose_text(table: pd.DataFrame) -> pd.DataFrame:
    """Means of `doses` as text, a row for each dose and condition."""
    keys, columns = ["dose", "condition"], ["shape_only", "G5 shape", "G6 shape"]
    columns += ["drop shape", "drop digit"]
    return table.groupby(keys, sort=False)[columns].agg(lambda values: text(interval(values)))


def _by_seed(table: pd.DataFrame) -> pd.DataFrame:
    """`doses`, a row for each dose and seed, a column for each condition."""
    table = table.assign(more=table["drop shape"] - table["drop digit"])
    return table.pivot(index=["dose", "seed"], columns="condition", values=["shape_only", "more"])


def known_doses(table: pd.DataFrame) -> list[float]:
    """From `doses`: those at which the network surely knows the shape.

    It is right from it alone more often than half of the time, and than a network whose shapes say
    nothing.
    """
    known = []
    for dose, rows in _by_seed(table).groupby("dose"):
        right, own = (rows["shape_only"] - 0.5)["trained"], rows["shape_only"]
        if min(interval(right).low, interval(own["trained"] - own["random shapes"]).low) > 0:
            known.append(dose)
    return known


def beyond_nothing(table: pd.DataFrame, dose: float) -> pd.Series:
    """From `doses`, at one: how much more a shape loses than the digit, and than the same of a
    shape that says nothing; paired by seed.
    """
    more = _by_seed(table).loc[dose, "more"]
    return interval(more["trained"] - more["random shapes"])


def dose_answer(table: pd.DataFrame) -> str:
    """From `doses`: does the shape lose more than the digit where the network knows it?"""
    wide, known = _by_seed(table), known_doses(table)
    right = "; ".join(
        f"{text(interval(own))} at {100 * dose:g} %"
        for dose, own in wide["shape_only"]["trained"].groupby("dose")
    )
    said = f"The network is right from the shape alone, by dose, {right} of the time"
    if not known:
        return f"{said}: at none of these does it surely know it."
    surely = ", ".join(f"{100 * dose:g}" for dose in known)
    more = wide.loc[max(known), "more"]
    return (
        f"{said}: it surely knows it at {surely} %. At {100 * max(known):g} % the shape loses from "
        f"G5 to G6 {text(interval(more['trained']))} more HGR than the digit (the paper: "
        f"{PAPER_MORE:.2f}). Less the same of a shape that says nothing: "
        f"{text(beyond_nothing(table, max(known)))}."
    )


# ---- the masking test ----------------------------------------------------------------------------
def masking(table: pd.DataFrame) -> pd.DataFrame:
    """Points of accuracy that blanking costs, by layer, share and what is blanked.

    Made of ``Study.toy_masking``, as are the next two.
    """
    return means(_falls(table), ["layer", "share", "blanked"], "fall")


def masking_gaps(table: pd.DataFrame) -> pd.DataFrame:
    """How much more blanking the high pixels costs than ``others``, paired by seed, in points."""
    rows = _falls(table)
    gaps = [
        _gains(rows, ["layer", "share"], "blanked", "high", other, "fall").assign(others=other)
        for other in ("random", "low")
    ]
    return pd.concat(gaps, ignore_index=True)


def masking_answer(table: pd.DataFrame) -> str:
    """For each layer, and each of random and low: is high what a network needs?"""
    sentences = []
    for (layer, other), rows in masking_gaps(table).groupby(["layer", "others"], sort=False):
        costs = [
            f"{text(row, '+.1f')} at {100 * row['share']:g} % ({_needed(row)})"
            for _, row in rows.iterrows()
        ]
        sentences.append(f"{layer}, high against {other}: {', '.join(costs)}.")
    return (
        "Points of accuracy that blanking costs more; in brackets, whether what the gradient "
        "calls high is needed more than the other. " + " ".join(sentences)
    )


def _needed(gap: pd.Series) -> str:
    if np.isnan(gap["low"]):
        return "one network tells nothing"
    if gap["low"] > 0:
        return "more"
    return "less" if gap["high"] < 0 else "undecided"


def _falls(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(fall=100 * (table["whole"] - table["accuracy"]))


# ---- pictures ------------------------------------------------------------------------------------
def example_pictures(digits: Digits) -> Pictures:
    """Panel (a): a 2 and an 8 without and with their shape, and their regions.

    Regions are grey levels: 0 the rest, 0.5 the digit, 1 the shape.
    """
    pictures, train = {}, digits.train
    kinds = list(zip(train.labels, (train.regions == 2).any(axis=(1, 2)), strict=True))
    for kind, title in EXAMPLES.items():
        if kind in kinds:
            i = kinds.index(kind)  # the first one
            pictures[title, "image"] = train.images[i] / 255
            pictures[title, "region"] = train.regions[i] / 2
    return pictures


def gradient_pictures(example: dict[str, np.ndarray]) -> Pictures:
    """Panel (b): an image and its gradient maps, named as in EXAMPLE_MAPS."""
    pictures = {}
    for i, label in enumerate(example["labels"]):
        title = ("2", "8")[int(label)]
        pictures[title, "image"] = example["images"][i] / 255
        for panel, values in zip(EXAMPLE_MAPS, example["maps"][i], strict=True):
            pictures[title, panel] = np.nan_to_num(values).astype(float)
    return pictures
