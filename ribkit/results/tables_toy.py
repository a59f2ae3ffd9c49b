"""Small tables and pictures of the toy experiment: curves and drops of HGR.

Tables are made of the table "hgr" of `ribkit.study.toy.experiment`. An interval is 95 %, Student's
t over the seeds, which differ in initial weights and batches but share the images.
"""

import numpy as np
import pandas as pd
from scipy import stats

from ribkit.data.digits import Digits
from ribkit.results.style import Pictures
from ribkit.study.toy import EXAMPLE_MAPS, LAYERS, PAPER_HGR

KEYS = ["activation", "condition", "output", "reading"]


def interval(values) -> pd.Series:
    """mean, low, high (95 % t interval) and n of the finite values; no interval for n < 2."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    n = len(values)
    mean = values.mean() if n else np.nan
    half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
    return pd.Series({"mean": mean, "low": mean - half, "high": mean + half, "n": n})


def at(hgr: pd.DataFrame, scale: str = "image", threshold: float = 0.3) -> pd.DataFrame:
    """The rows of one scale and one threshold."""
    return hgr[(hgr.scale == scale) & np.isclose(hgr.threshold, threshold)]


def curve(hgr: pd.DataFrame) -> pd.DataFrame:
    """Figure 1's curve: layer, region, mean, low, high, n, paper, for the first activation.

    Every layer after its own activation, outputs summed; the interval is cut to [0, 1].
    """
    rows = at(hgr)
    rows = rows[(rows.activation == hgr.activation.iloc[0]) & (rows.condition == "trained")]
    rows = rows[(rows.reading == "after") & (rows.output == "sum")]
    table = _intervals(rows, ["region", "layer"], "hgr").sort_values(["region", "layer"])
    table[["low", "high"]] = table[["low", "high"]].clip(0, 1)
    table["paper"] = [PAPER_HGR[r][k - 1] for r, k in zip(table.region, table.layer, strict=True)]
    return table


def drops(hgr: pd.DataFrame, scale: str = "image", threshold: float = 0.3) -> pd.DataFrame:
    """HGR of G5 minus HGR of G6: columns KEYS, seed, region, drop.

    G5 is the summed output of the last ReLU throughout.
    """
    rows = at(hgr, scale, threshold)
    network = ["activation", "condition", "seed", "region"]
    fifth = rows[(rows.layer == LAYERS - 1) & (rows.reading == "after")]
    both = rows[rows.layer == LAYERS].merge(
        fifth[[*network, "hgr"]], on=network, suffixes=("", "_fifth"), validate="many_to_one"
    )
    both["drop"] = both.hgr_fifth - both.hgr
    return both[[*KEYS, "seed", "region", "drop"]]


def region_drops(hgr: pd.DataFrame) -> pd.DataFrame:
    """Mean drop with its interval: columns KEYS, region, mean, low, high, n."""
    return _intervals(drops(hgr), [*KEYS, "region"], "drop")


def last_drop(hgr: pd.DataFrame, scale: str = "image", threshold: float = 0.3) -> pd.DataFrame:
    """How much more the non-discriminative region loses from G5 to G6 than the discriminative one.

    The paper: 0.76 - 0.23 = 0.53. Columns KEYS, mean, low, high, n of the difference per seed.
    """
    wide = drops(hgr, scale, threshold).pivot_table(
        index=[*KEYS, "seed"], columns="region", values="drop", sort=False, dropna=False
    )
    difference = (wide["non-discriminative"] - wide["discriminative"]).rename("difference")
    return _intervals(difference.dropna().reset_index(), KEYS, "difference")


def removal(hgr: pd.DataFrame) -> pd.DataFrame:
    """HGR that taking the last activation off the *same* network gives back, by region.

    G6 before minus after it: columns activation, condition, output, region, mean, low, high, n.
    """
    rows = at(hgr)
    keys = ["activation", "condition", "output", "region"]
    wide = rows[rows.layer == LAYERS].pivot_table(
        index=[*keys, "seed"], columns="reading", values="hgr", sort=False
    )
    gain = (wide["before"] - wide["after"]).rename("gain").dropna().reset_index()
    return _intervals(gain, keys, "gain")


def removal_beyond_control(hgr: pd.DataFrame) -> pd.Series:
    """`removal` of the non-discriminative region less the same where the shape says nothing.

    Outputs summed, the first activation, paired over seeds: mean, low, high, n.
    """
    rows = at(hgr)
    rows = rows[(rows.layer == LAYERS) & (rows.output == "sum")]
    rows = rows[(rows.activation == hgr.activation.iloc[0]) & (rows.region == "non-discriminative")]
    wide = rows.pivot_table(index="seed", columns=["condition", "reading"], values="hgr")
    gain = wide["trained"] - wide["random shapes"]
    return interval(gain["before"] - gain["after"])


def trained_without(hgr: pd.DataFrame) -> pd.DataFrame:
    """HGR of networks trained without a last activation less that of the first activation's.

    G5 and G6 (own class, after), paired over seeds: columns layer, region, mean, low, high, n.
    """
    rows = at(hgr)
    rows = rows[(rows.condition == "trained") & (rows.reading == "after")]
    rows = rows[(rows.layer == LAYERS - 1) | ((rows.layer == LAYERS) & (rows.output == "target"))]
    wide = rows.pivot_table(
        index=["layer", "region", "seed"], columns="activation", values="hgr", sort=False
    )
    gain = (wide["none"] - wide[hgr.activation.iloc[0]]).rename("gain").reset_index()
    return _intervals(gain, ["layer", "region"], "gain")


def sensitivity(hgr: pd.DataFrame) -> pd.DataFrame:
    """``last_drop`` as text for every scale and threshold: one row per network and reading."""
    columns = {}
    for (scale, threshold), rows in hgr.groupby(["scale", "threshold"], sort=False):
        table = last_drop(rows, scale, threshold).set_index(KEYS)
        columns[f"{scale}, {threshold}"] = table.apply(_text, axis=1)
    return pd.DataFrame(columns)


def transmitted(hgr: pd.DataFrame) -> pd.DataFrame:
    """Mean absolute gradient of the own class, and the share that the last activation lets through.

    Means over seeds: columns activation, condition, region, gradient, share, share_low, share_high.
    """
    rows = at(hgr, hgr.scale.iloc[0], hgr.threshold.iloc[0])
    rows = rows[(rows.layer == LAYERS) & (rows.output == "target")]
    keys = ["activation", "condition", "region"]
    wide = rows.pivot_table(
        index=[*keys, "seed"], columns="reading", values="magnitude", sort=False
    ).reset_index()
    wide["share"] = wide["after"] / wide["before"]
    shares = _intervals(wide, keys, "share").drop(columns="n")
    shares = shares.rename(columns={"mean": "share", "low": "share_low", "high": "share_high"})
    gradient = wide.groupby(keys, sort=False)["before"].mean().rename("gradient").reset_index()
    return gradient.merge(shares, on=keys)


def example_pictures(digits: Digits) -> Pictures:
    """Panel (a): a 2 and an 8 without and with their shape, and their regions.

    Regions are grey levels: 0 the rest, 0.5 the digit, 1 the shape.
    """
    pictures = {}
    shaped = (digits.train.regions == 2).any(axis=(1, 2))
    for label, name in enumerate(("2", "8")):
        for with_shape in (False, True):
            of_kind = (digits.train.labels == label) & (shaped == with_shape)
            for i in np.flatnonzero(of_kind)[:1]:
                title = name + (", with its " + ("disc", "square")[label] if with_shape else "")
                pictures[title, "image"] = digits.train.images[i] / 255
                pictures[title, "region"] = digits.train.regions[i] / 2
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


def _intervals(table: pd.DataFrame, keys: list[str], column: str) -> pd.DataFrame:
    """One row per group of ``keys``, in order of appearance."""
    groups = table.groupby(keys, sort=False)[column]
    rows = [{**dict(zip(keys, key, strict=True)), **interval(group)} for key, group in groups]
    return pd.DataFrame(rows).astype({"n": int})


def _text(row: pd.Series) -> str:
    mean, low, high = (round(float(row[name]), 2) + 0.0 for name in ("mean", "low", "high"))
    return f"{mean:.2f} ({low:.2f} to {high:.2f})"
