"""Small tables and pictures of the toy experiment: curves and drops of HGR.

Tables are made of the table "hgr" of `ribkit.study.toy.experiment`, and end in mean, low, high and
n: a 95 % interval, Student's t over the seeds, which differ in initial weights and batches but
share the images.
"""

import numpy as np
import pandas as pd
from scipy import stats

from ribkit.data.digits import Digits
from ribkit.results.style import Pictures
from ribkit.study.toy import EXAMPLE_MAPS, PAPER_HGR

KEYS = ["activation", "condition", "output", "reading"]
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
    n = len(values)
    mean = values.mean() if n else np.nan
    half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
    return pd.Series({"mean": mean, "low": mean - half, "high": mean + half, "n": n})


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
        table = last_drop(rows, scale, threshold).set_index(KEYS).round(2) + 0.0  # no -0.00
        columns[f"{scale}, {threshold}"] = [
            f"{row.mean:.2f} ({row.low:.2f} to {row.high:.2f})" for row in table.itertuples()
        ]
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
