import warnings
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL import Image
from seaborn.utils import relative_luminance
from skimage.color import deltaE_ciede2000, rgb2lab

from ribkit.results import claims, figures, special_figures, style, tables
from ribkit.results.figures import FIGURES
from ribkit.results.style import pack, unpack
from ribkit.runtime.errors import InputError
from ribkit.study import pipeline
from ribkit.study.study import Study

KEPT = Path(__file__).parent.parent / "figures"
KINDS = ("training", "held out")
METHODS = ("CAM", "RIB paper, GAP", "RIB official, GNDRP")


def noise(height, width, channels=None):
    random = np.random.default_rng([height, width])
    if channels is None:
        return random.random((height, width))
    return random.integers(0, 256, (height, width, channels), np.uint8)


def gallery():
    made = {}
    for name, size in (("chelsea, cat", (6, 9)), ("12, cross", (8, 8))):
        made[name, "image"] = noise(*size, 3)
        for panel in ("CAM", "step 2", "sum", "object", "objects", "heads"):
            made[name, panel] = noise(*size)
    return made


def training():
    rows = [
        {"stage": stage, "images": images, "epoch": epoch, "loss": 0.5 / epoch}
        for stage, kinds in (("pretext task", KINDS[:1]), ("classifier", KINDS))
        for images in kinds
        for epoch in (1, 2, 3)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def thresholds():
    rows = [
        {"method": method, "threshold": t / 10, "miou": 30 + t - k}
        for k, method in enumerate(METHODS)
        for t in range(10)
    ]
    return pd.DataFrame(rows)


def tuning():
    rates = (1e-5, 3e-5, 1e-4)
    rows = [{"method": "CAM", "training": 0, "stage": "scales", "gain": 0.0, "chosen": True}]
    rows += [
        {"method": method, "training": n, "stage": "lr", "lr": lr, "gain": k, "chosen": k == n}
        for method in METHODS[1:]
        for n in (0, 1)
        for k, lr in enumerate(rates)
    ]
    return pd.DataFrame(rows)


def controls():
    rows = [
        {"kind": kind, "method": method, "gain": 1.0, "gain_low": -0.5, "gain_high": 2.5}
        for kind, method in (("rival", "CAM, smoothed"), ("RIB", METHODS[2]), ("few masks", "40"))
    ]
    return pd.DataFrame(rows)


def doses():
    rows = [
        {"usual texture": dose, "gain": dose, "gain_low": dose - 1, "gain_high": dose + 1}
        | {"CAM covers": 40.0, "RIB covers": 50.0}
        for dose in (0.0, 0.7, 1.0)
    ]
    return pd.DataFrame(rows)


def seed_scores():
    rows = []
    for k, method in enumerate(METHODS):
        for choice in ("oracle", "held-out", "mask-free"):
            row = {"method": method, "threshold chosen": choice, "miou": 38 + k}
            row |= {"miou_low": 36.0 + k, "miou_high": 41.0 + k}
            if k:
                row |= {"over_cam": k, "over_cam_low": k - 1.5, "over_cam_high": k + 1.5}
            rows.append(row)
    return pd.DataFrame(rows)


def coverage():
    rows = [
        {"method": method, "part": part, "covered": 50.0, "covered_low": 45, "covered_high": 55}
        | {f"auc{end}": 90 + at if part != "outside" else np.nan for end, at in ENDS.items()}
        for method in METHODS
        for part in ("head", "body", "near", "far", "outside")
    ]
    return pd.DataFrame(rows)


def changes():
    places = {"on the object": ("near CAM's peak", "far from CAM's peak"), "on objects": ("small",)}
    rows = [
        {"where": where, "region": region, "method": method, "images": 30}
        | {"change": 2.0, "change_low": -1.0, "change_high": 5.0}
        for method in ("RIB", "best rival")
        for where, regions in places.items()
        for region in regions
    ]
    return pd.DataFrame(rows)


def verdicts():
    ends = {"rib-seed": (0.5, 1.5), "gndrp-seed": (-1, 1), "rib-seed-oracle": (8, 9)}
    ends |= {"irn-seed": (10, 20), "psa-seed": (1, 2), "crf-seed": (-2, -1), "rib-pseudo": (-1, 1)}
    made = {
        name: claims.Measured(0, *low_high, 1.3, "mIoU", "", "mini", "scenes")
        for name, low_high in ends.items()
    }
    return claims.table(made)


def digits_claims():
    units = {"last-layer-bottleneck": "HGR", "activation-removed": "HGR"}
    units["high-gradient-used"] = "points of accuracy"
    made = {
        name: claims.Measured(0.1, -0.2, 0.4, 1.3, unit, "", "MNIST", "digits")
        for name, unit in units.items()
    }
    return claims.table(made, "01")


def forest():
    rows = verdicts().dropna(subset="difference")
    both = [rows.assign(evidence=kind) for kind in ("photographs", "drawn scenes")]
    hgr = both[0].iloc[:2].assign(unit="HGR", question="RQ1", evidence="digits")
    covered = both[0].iloc[:1].assign(unit="points of halves covered", question="RQ2")
    return pd.concat([*both, hgr, covered, covered.assign(unit="points of AUC")])


def digits(*panels):
    """Two digits with grey panels, values 0, 1/2 and 1."""
    values = np.arange(12).reshape(3, 4) % 3 / 2
    return {(name, p): values for name in ("a 2", "an 8") for p in panels}


REGIONS = ("discriminative", "non-discriminative", "irrelevant")


def toy_hgr():
    rows = [
        {"layer": layer, "region": region, "mean": 1 / layer, "low": 0.5 / layer, "high": 1.0}
        | {"paper": 0.9 if layer < 6 else np.nan}
        for region in REGIONS
        for layer in range(1, 7)
    ]
    return pd.DataFrame(rows)


def toy_last_drop():
    rows = [
        {"activation": activation, "condition": condition, "output": output, "reading": reading}
        | {"region": region, "mean": np.nan if activation == "softmax" else 0.2}
        | {"low": 0.1, "high": 0.3}
        for activation, condition in (("none", "trained"), ("softmax", "trained"), ("none", "x"))
        for output in ("sum", "target")
        for reading in ("after", "before")
        for region in REGIONS[:2]
    ]
    return pd.DataFrame(rows)


def toy_doses():
    rows = [
        {"dose": dose, "condition": condition, "quantity": quantity}
        | {"mean": dose, "low": dose - 0.1, "high": dose + 0.1}
        for dose in (0.1, 1.0)
        for condition in ("trained", "random shapes")
        for quantity in ("shape_only", "drop shape", "drop digit")
    ]
    return pd.DataFrame(rows)


def toy_masking():
    rows = [
        {"layer": layer, "share": share, "blanked": kind, "mean": 5.0, "low": -1.0, "high": 9.0}
        for layer in ("G5", "G6")
        for share in (0.25, 0.5)
        for kind in ("high", "low", "random")
    ]
    return pd.DataFrame(rows)


def measures():
    rows = [
        {"measure": measure, "threshold chosen": choice, "CAM": 40.0, "RIB": 41.0}
        | {"gain": 1.0, "gain_low": 0.2, "gain_high": 1.8}
        for measure, choice in (("mIoU", "oracle"), ("mIoU", "mask-free"), ("PxAP", "no threshold"))
    ]
    return pd.DataFrame(rows)


def class_scores():
    rows = [
        {"method": method, "stage": "+ CRF", "class": name}
        | {"precision": 10.0 * k, "recall": 50.0, "iou": 5.0 * k + j}
        for k, name in enumerate(("background", "cat", "tram"))
        for j, method in enumerate(("RIB", "CAM"))
    ]
    return pd.DataFrame(rows)


def precision_recall():
    rows = [
        {"method": method, "stage": f"seed, {choice} threshold"}
        | {f"{name}{end}": 50 + at for name in ("precision", "recall") for end, at in ENDS.items()}
        for method in METHODS
        for choice in ("oracle", "held-out")
    ]
    return pd.DataFrame(rows)


ENDS = {"": 0, "_low": -3, "_high": 2}


def refinement():
    rows = [
        {"method": method, "stage": stage}
        | {f"miou{end}": 50 + k + at for end, at in ENDS.items()}
        | {f"over_seed{end}": k + at if k else np.nan for end, at in ENDS.items()}
        | {f"over_cam{end}": at if method != "CAM" else np.nan for end, at in ENDS.items()}
        for method in pipeline.STARTS
        for k, stage in enumerate(("seed", "+ CRF", "+ IRN"))
    ]
    return pd.DataFrame(rows)


def refinement_errors():
    shares = {"false negative": 10.0, "false positive": 5.0, "wrong class": 2.5, "ignored": 0.0}
    rows = [{"method": m, "stage": s} | shares for m in pipeline.STARTS for s in ("seed", "+ CRF")]
    return pd.DataFrame(rows)


def network():
    rows = [
        {"trained on": source, "CRF": crf}
        | {f"miou{end}": 50 + k + at for end, at in ENDS.items()}
        | {f"over_cam{end}": k + at if k else np.nan for end, at in ENDS.items()}
        for crf in ("without CRF", "with CRF")
        for k, source in enumerate(("CAM", "RIB", "ground truth"))
    ]
    return pd.DataFrame(rows)


def network_curves():
    rows = [
        {"trained on": source, "training": rng_seed, "iteration": i, "loss": 1 / i + 0.1 * rng_seed}
        for source in ("CAM", "RIB")
        for rng_seed in (0, 1)
        for i in (1, 2, 3)
    ]
    return pd.DataFrame(rows)


def affinity_curves():
    rows = [
        {"epoch": epoch, "loss": 1 / epoch + 0.1 * rng_seed + k}
        | {"network": name, "method": method, "training": rng_seed}
        for k, name in enumerate(("PSA", "IRN"))
        for method in pipeline.STARTS
        for rng_seed in (0, 1)
        for epoch in (1, 2, 3)
    ]
    return pd.DataFrame(rows)


def ablation(*factors):
    """Rows of the ablations' scores; factors: (factor, values), numbers or words."""
    rows = []
    for factor, values in factors:
        for k, value in enumerate(values):
            x = value if isinstance(value, (int, float)) else np.nan
            row = {"factor": factor, "value": str(value), "x": x, "cover body": 30.0 + k}
            for key, at in (("miou", 50 + k), ("gain", 1.0 + k)):
                row |= {key: at, f"{key}_low": at - 2, f"{key}_high": at + 2}
            rows.append(row)
    return pd.DataFrame(rows)


BASELINES = ("baseline", ("CAM", "RIB"))


def layered(key, *columns):
    rows = [
        {"layer": layer, columns[0]: region, key: 0.5, f"{key}_low": 0.4, f"{key}_high": 0.6}
        for layer in ("level 1\nstride 2", "level 2\nstride 4", "logits")
        for region in REGIONS[: columns[1]]
    ]
    return pd.DataFrame(rows)


def differences():
    rows = [
        {"difference": f"{k} some", "value": "official", "stage": f"+ stage {k}", "on CAM": k}
        | {"on RIB": 2 * k, "images": 9}
        | {key: k - 1, f"{key}_low": k - 2, f"{key}_high": k}
        for k in (1, 2)
        for key in ("gain",)
    ]
    table = pd.DataFrame(rows)
    beyond = {f"beyond{end}": table[f"gain{end}"] for end in ("", "_low", "_high")}
    return table.assign(**beyond)


TABLES = {
    "activations": lambda: ablation(
        ("activation", ("none", "tanh")), ("activation, rate matched", ("tanh",))
    ),
    "poolings": lambda: ablation(
        BASELINES,
        ("pooling", ("GAP", "maximum")),
        ("GNDRP paper", (0.1, 0.5)),
        ("GNDRP official", (0.1, 0.5)),
    ),
    "sensitivity": lambda: ablation(
        BASELINES,
        ("steps K", (0, 5)),
        ("learning rate", (1e-5, 1e-4)),
        ("margin", (0, 1, 2)),
        ("others B", (0, 4)),
    ).assign(chosen=False),
    "adaptations": lambda: ablation(("adaptation", ("none (CAM)", "once for the set"))),
    "gradient_pixels": gallery,
    "layers": lambda: layered("hgr", "region", 3),
    "bits": lambda: layered("bits", "part", 2),
    "ledger": differences,
    "interaction": differences,
    "best_of": lambda: pd.DataFrame({"tried": [1, 5], "bias": [0.0, 1.0], "error": [0.1, 0.1]}),
    "replicas": lambda: pd.DataFrame(
        {"method": METHODS * 2, "training": [0] * 3 + [1] * 3, "miou": [47, 48, 49, 46, 49, 48]}
    ),
    "toy_examples": lambda: digits("image", "region"),
    "toy_gradients": lambda: digits("image", "G1, none", "G6, none"),
    "toy_hgr": toy_hgr,
    "toy_last_drop": toy_last_drop,
    "samples": gallery,
    "cams": gallery,
    "growth": gallery,
    "photographs": gallery,
    "training": training,
    "thresholds": thresholds,
    "tuning": tuning,
    "seed_scores": seed_scores,
    "toy_doses": toy_doses,
    "toy_masking": toy_masking,
    "controls": controls,
    "doses": doses,
    "measures": measures,
    "precision_recall": precision_recall,
    "classes": class_scores,
    "classes_labels": class_scores,
    "classes_networks": class_scores,
    "coverage": coverage,
    "changes": changes,
    "claims": verdicts,
    "digits_claims": digits_claims,
    "forest": forest,
    "refinement": refinement,
    "refinement_errors": refinement_errors,
    "refined": gallery,
    "walks": gallery,
    "predictions": gallery,
    "worst": gallery,
    "network": network,
    "network_curves": network_curves,
    "affinity_curves": affinity_curves,
}


@pytest.mark.parametrize("name", TABLES)
def test_a_figure_is_drawn_from_its_table_and_nothing_else(name, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning would end up in a notebook
        drawn = figures.save(name, TABLES[name](), tmp_path / "new")
    assert drawn.axes
    files = [tmp_path / "new" / f"{name}{suffix}" for suffix in figures.NO_DATE]
    beside = {path.name for path in (tmp_path / "new").iterdir()} - {file.name for file in files}
    pixels = set() if isinstance(TABLES[name](), pd.DataFrame) else {f"{name}.pixels.png"}
    assert beside == {f"{name}.csv"} | pixels
    before = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()
    figures.redraw(tmp_path / "new" / f"{name}.csv")
    assert [file.read_bytes() for file in files] == before
    with Image.open(tmp_path / "new" / f"{name}.png") as image:
        assert len(image.convert("RGB").getcolors(1 << 20)) > 10
    assert not pyplot.get_fignums()


def test_every_registered_figure_is_drawn_above():
    assert set(FIGURES) == set(TABLES)


def test_a_heatmap_says_each_number_in_its_row_and_column():
    axes = figures.draw("classes_labels", class_scores()).axes
    assert [axis.get_title() for axis in axes] == ["precision (%)", "recall (%)", "IoU (%)"]
    rows = [label.get_text() for label in axes[0].get_yticklabels()]
    assert rows == ["RIB, + CRF", "CAM, + CRF"]  # in the table's order
    columns = [label.get_text() for label in axes[2].get_xticklabels()]
    assert columns == ["background", "cat", "tram"]
    said = [text.get_text() for text in axes[2].texts]
    assert said == ["0", "5", "10", "1", "6", "11"]


def test_a_heatmap_has_no_number_where_there_is_none():
    table = class_scores()
    table.loc[2, ["precision", "iou"]] = np.nan  # a class that is never predicted
    axis = figures.draw("classes", table).axes[0]
    assert len(axis.texts) == table["precision"].notna().sum()


def test_a_heatmaps_numbers_can_be_read_on_their_colours():
    axis = figures.draw("classes", class_scores().assign(recall=np.linspace(0, 100, 6))).axes[1]
    for text, colour in zip(axis.texts, axis.collections[0].get_facecolors(), strict=True):
        dark, bright = sorted(map(relative_luminance, (text.get_color(), colour)))
        assert (bright + 0.05) / (dark + 0.05) >= 4.5


# ---- axes ---------------------------------------------------------------------------------------
DIFFERENCES = ("gain", "over_cam", "over_seed", "beyond", "change", "bias", "error")
ZERO = {  # figure -> which axis shows differences, along what
    "activations": (0, "x"), "adaptations": (0, "x"), "measures": (0, "x"), "changes": (0, "x"),
    "controls": (0, "x"), "ledger": (0, "x"), "seed_scores": (1, "x"), "network": (1, "x"),
    "refinement": (1, "x"), "interaction": (1, "x"), "poolings": (0, "y"), "doses": (0, "y"),
    "sensitivity": (0, "y"), "best_of": (0, "y"),
}  # fmt: skip


@pytest.mark.parametrize("name", ZERO)
def test_a_difference_of_nothing_looks_like_nothing(name):
    at, along = ZERO[name]
    table = TABLES[name]()
    values = [c for c in table if c.removesuffix("_low").removesuffix("_high") in DIFFERENCES]

    def limits(table):
        return getattr(figures.draw(name, table).axes[at], f"get_{along}lim")()

    low, high = limits(table.assign(**table[values] * 1e-3))
    assert -0.6 < low < -0.5
    assert 0.5 < high < 0.6
    assert limits(table)[1] > 0.9


def test_the_paired_gains_stand_beside_the_scores():
    shown = {name: figures.draw(name, TABLES[name]()).axes for name in ("network", "refinement")}
    gains = {name: ["gain" in axis.get_xlabel() for axis in axes] for name, axes in shown.items()}
    assert gains == {"network": [False, True], "refinement": [False, True, True]}


@pytest.mark.parametrize("name", ["coverage", "precision_recall"])
def test_shares_and_their_intervals_end_at_0_and_100(name):
    table = TABLES[name]()
    table[[c for c in table if c.endswith("_high")]] = 117.0
    for axis in figures.draw(name, table).axes:
        (low, high), least = axis.get_xlim(), 50 if "AUC" in axis.get_xlabel() else 0
        assert least - 5 < low < least < 100 < high < 105
        drawn = [s for c in axis.containers for s in c.lines[2][0].get_segments() if len(s)]
        assert np.max([segment[:, 0] for segment in drawn]) == 100


def test_no_margin_stands_at_the_right_and_is_not_joined():
    axes = figures.draw("sensitivity", TABLES["sensitivity"]()).axes
    axis = next(a for a in axes if a.get_xlabel().startswith("margin"))
    ticks = dict(
        zip((t.get_text() for t in axis.get_xticklabels()), axis.get_xticks(), strict=True)
    )
    assert list(ticks) == ["none", "1", "2"]
    assert ticks["none"] > ticks["2"] == 2
    joined = next(line for line in axis.lines if line.get_linestyle() == "-")
    assert joined.get_xdata().tolist() == [1, 2]
    assert [c.lines[0].get_xdata().tolist() for c in axis.containers] == [[ticks["none"]]]


def test_one_setting_has_an_interval_too():
    table = ablation(("margin", (0, 2))).assign(chosen=False)
    (both,) = figures.draw("sensitivity", table).axes[0].containers
    assert [len(segment) for segment in both.lines[2][0].get_segments()] == [2, 2]


@pytest.mark.parametrize("name", ["sensitivity", "tuning"])
def test_rates_are_said_as_they_are(name):
    rates = [2.43e-8, 8.1e-8, 1e-5]
    table = TABLES[name]()
    if name == "tuning":
        table["lr"] = table["lr"].map(dict(zip((1e-5, 3e-5, 1e-4), rates, strict=True)))
    else:
        table = ablation(("learning rate", rates)).assign(chosen=False)
    ticks = figures.draw(name, table).axes[0].get_xticklabels()
    assert [tick.get_text() for tick in ticks] == ["2.4e-8", "8.1e-8", "1e-5"]


def test_there_are_no_half_epochs():
    for axis in figures.draw("training", training()).axes:
        assert all(tick == round(tick) for tick in axis.get_xticks())


def test_the_papers_drops_stand_over_its_own_dose():
    left, right = figures.draw("toy_doses", toy_doses()).axes
    paper = [line for line in right.lines if "the paper" in str(line.get_label())]
    assert [line.get_xdata().tolist() for line in paper] == [[-0.4, 0.4]] * 2
    assert right.get_ylim()[0] <= 0
    assert left.get_ylim() == (0, 1.02)


@pytest.mark.parametrize("name", ["layers", "bits", "toy_hgr"])
def test_regions_stand_in_one_order_and_only_levels_are_joined(name):
    table = TABLES[name]()
    axis = figures.draw(name, table[::-1].sort_values("layer", kind="stable")).axes[0]
    said = [text.get_text().split()[0] for text in axis.get_legend().get_texts()]
    order = ["discriminative", "non-discriminative", "irrelevant"]
    order = order if name == "toy_hgr" else ["head", "body", "outside"]
    assert [word for word in said if word in order] == order[: 2 if name == "bits" else 3]
    joined = [line for line in axis.lines if line.get_linestyle() == "-" and len(line.get_xdata())]
    assert {len(line.get_xdata()) for line in joined} == {6 if name == "toy_hgr" else 2}


def test_networks_losses_have_a_panel_for_each_kind_of_labels_and_one_scale():
    axes = figures.draw("network_curves", network_curves()).axes
    assert [axis.get_title() for axis in axes] == ["CAM", "RIB"]
    assert len({axis.get_ylim() for axis in axes}) == 1


# ---- colours ------------------------------------------------------------------------------------
EYES = {  # what linear RGB becomes to them (Machado, Oliveira and Fernandes 2009)
    "usual": np.eye(3),
    "protanopes'": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopes'": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
}


def seen(colours, eyes):
    """L*a*b* of colours, 0 to 1, as those eyes see them."""
    colours = np.array(colours, float)
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.transpose(EYES[eyes]), 0, 1)
    back = np.where(linear <= 0.00313, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return rgb2lab(back)


KINDS_OF_PIXELS = [np.array(colour) / 255 for _, colour in style.KINDS]
COLOURED = special_figures.COLOURS[:-1]  # but for the hatched


@pytest.mark.parametrize("eyes", EYES)
@pytest.mark.parametrize("colours", [KINDS_OF_PIXELS, COLOURED], ids=["pixels", "verdicts"])
def test_colours_differ_to_all_eyes(colours, eyes):
    pairs = np.array(list(combinations(seen(colours, eyes), 2)))
    assert deltaE_ciede2000(pairs[:, 0], pairs[:, 1]).min() > 12


@pytest.mark.parametrize(
    ("colours", "apart"), [(KINDS_OF_PIXELS, 15), (COLOURED, 9)], ids=["pixels", "verdicts"]
)
def test_colours_differ_in_grey(colours, apart):
    assert np.diff(np.sort(seen(colours, "usual")[:, 0])).min() > apart


def test_claims_are_counted_and_those_not_measured_are_hatched():
    table = verdicts()
    axis = figures.draw("claims", table).axes[0]
    assert sum(int(text.get_text() or 0) for text in axis.texts) == len(table)
    hatched = {bars.get_label(): {bar.get_hatch() for bar in bars} for bars in axis.containers}
    assert {name for name, hatches in hatched.items() if hatches != {None}} == {"not measured"}


def test_a_method_has_one_colour_in_all_figures():
    titles = [method.title for method in Study("mini").methods]
    assert {*titles, "CAM", "RIB", "best rival"} == set(style.METHODS)
    shown = {"RIB": style.METHODS["RIB"][0], "best rival": style.METHODS["best rival"][0]}
    assert style.looks(shown)[0] == shown
    axis = figures.draw("thresholds", thresholds()).axes[0]
    drawn = {line.get_label(): line.get_color() for line in axis.get_legend().legend_handles}
    assert drawn == {method: style.METHODS[method][0] for method in METHODS}
    assert style.looks([0, 1])[0] == {0: style.PALETTE[0], 1: style.PALETTE[1]}


def test_an_outline_is_seen_on_white_and_on_black():
    drawn = figures.draw("growth", gallery()).axes[1].collections[0]
    (stroke,) = drawn.get_path_effects()
    assert drawn.get_edgecolor()[0].tolist() == [1, 1, 1, 1]
    assert stroke._gc == {"linewidth": 2.2, "foreground": "black"}


def test_a_shift_is_white_where_there_is_none():
    pictures = {("0, ring", panel): np.full((2, 2), 0.5) for panel in ("map", "shift down")}
    plain, shift = (axis.images[0] for axis in figures.draw("walks", pictures).axes[:2])
    assert plain.get_cmap().name == "viridis"
    assert min(shift.cmap(shift.norm(0.5))) > 0.95


def test_each_class_of_a_label_map_has_its_colour():
    seen = tables.by_class(np.array([[0, 1, 2, 11, 255]], np.uint8))[0].tolist()
    first, second = (np.round(255 * np.array(style.PALETTE[:2])).astype(int)).tolist()
    assert seen == [[255] * 3, first, second, first, [255] * 3]


def test_the_forest_has_a_panel_for_each_unit_and_a_row_for_each_claim():
    drawn = figures.draw("forest", forest())
    rows = {
        axis.get_title("left").split(":")[0]: [text.get_text() for text in axis.get_yticklabels()]
        for axis in drawn.axes
    }
    by_question = verdicts().dropna(subset="difference").set_index("question")["short"]
    assert rows == {
        "coverage": [by_question.iloc[0]],
        "the same told from off the object": [by_question.iloc[0]],
        "seeds": list(by_question.drop("RQ4")),
        "labels and networks": list(by_question["RQ4"]),
        "high gradient ratio (HGR)": list(by_question.iloc[:2]),
    }
    (legend,) = drawn.legends
    said = [text.get_text() for text in legend.get_texts()]
    assert said == ["reported", "reported, not confirmed", "photographs", "drawn scenes", "digits"]


# ---- files --------------------------------------------------------------------------------------
def test_drawing_leaves_the_style_as_it_was(tmp_path):
    before = dict(pyplot.rcParams)
    figures.save("claims", verdicts(), tmp_path)
    assert dict(pyplot.rcParams) == before


USERS = {  # what a matplotlibrc may say
    "look": {
        "font.size": 20, "font.family": "serif", "axes.facecolor": "red", "xtick.labelsize": 3,
        "axes.unicode_minus": False, "figure.dpi": 33, "figure.constrained_layout.h_pad": 1,
    },
    "LaTeX": {"text.usetex": True, "axes.formatter.use_mathtext": True},
    "saving": {
        "savefig.transparent": True, "savefig.dpi": 30, "savefig.facecolor": "red",
        "savefig.pad_inches": 2, "pdf.fonttype": 42, "pdf.compression": 0,
    },
}  # fmt: skip


@pytest.mark.parametrize("users", USERS)
@pytest.mark.parametrize("name", ["tuning", "growth"])
def test_a_figure_is_the_same_whatever_matplotlibs_user_prefers(name, users, tmp_path):
    figures.save(name, TABLES[name](), tmp_path / "plain")
    with pyplot.rc_context(USERS[users]):
        before = dict(pyplot.rcParams)
        figures.save(name, TABLES[name](), tmp_path / "preferred")
        assert dict(pyplot.rcParams) == before
    for suffix in figures.NO_DATE:
        plain, preferred = (tmp_path / of / f"{name}{suffix}" for of in ("plain", "preferred"))
        assert plain.read_bytes() == preferred.read_bytes()


def test_a_figure_that_its_user_saves_needs_no_latex(tmp_path):
    with pyplot.rc_context(USERS["LaTeX"]):
        figures.draw("tuning", tuning()).savefig(tmp_path / "tuning.png")
    assert (tmp_path / "tuning.png").stat().st_size > 1000


def test_names_of_digits_keep_their_zeros(tmp_path):
    named = {("000000000139, 007", panel): noise(3, 3) for panel in ("image", "CAM")}
    drawn = figures.save("growth", named, tmp_path)
    assert drawn.axes[0].get_ylabel() == "000000000139\n007"
    figures.save("coverage", coverage().assign(image="0012"), tmp_path)
    assert ",92,0012\n" in (tmp_path / "coverage.csv").read_text()
    seen = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(figures, "draw", lambda _, table: seen.append(table) or Figure())
        figures.redraw(tmp_path / "coverage.csv")
    assert set(seen[0]["image"]) == {"0012"}


def test_a_table_of_no_figure_is_told(tmp_path):
    (tmp_path / "nothing.csv").write_text("a\n1\n")
    with pytest.raises(InputError, match=r"nothing\.csv belongs to no figure"):
        figures.redraw(tmp_path / "nothing.csv")


@pytest.mark.parametrize("damage", ["missing", "cut", "of another table"])
def test_pictures_that_are_not_the_tables_are_refused(damage, tmp_path):
    figures.save("growth", gallery(), tmp_path)
    sheet = tmp_path / "growth.pixels.png"
    if damage == "missing":
        sheet.unlink()
    elif damage == "cut":
        sheet.write_bytes(sheet.read_bytes()[:200])
    else:
        Image.new("RGB", (9, 9)).save(sheet)
    with pytest.raises(InputError, match=r"growth\.pixels\.png, the pictures of growth\.csv"):
        figures.redraw(tmp_path / "growth.csv")


# ---- pictures on a sheet ------------------------------------------------------------------------
PICTURES = {
    ("1, cross", "image"): noise(3, 5, 3),
    ("1, cross", "map"): noise(4, 2),
    ("2", "image"): np.zeros((2, 2, 3), np.uint8),
    ("2", "a grey"): np.full((2, 3), 0x12 / 255),
    ("1, cross", "one pixel"): np.ones((1, 1)),
}


def test_pictures_lie_side_by_side_on_their_sheet():
    table, sheet = pack(PICTURES)
    assert sheet.shape == (7, 7, 3)
    assert table["left"].tolist() == [0, 5, 0, 2, 0]
    assert table["top"].tolist() == [0, 0, 4, 4, 6]
    assert (sheet[4:6, 2:5] == 0x12).all()


def test_pictures_survive_a_sheet_and_a_file(tmp_path):
    table, sheet = pack(PICTURES)
    table.to_csv(tmp_path / "a.csv", index=False)
    Image.fromarray(sheet).save(tmp_path / "a.pixels.png")
    names = {"name": str, "panel": str}
    read = figures._pictures(tmp_path / "a.csv", pd.read_csv(tmp_path / "a.csv", dtype=names))
    for found in (unpack(table, sheet), read):
        assert list(found) == list(PICTURES)
        for key, picture in PICTURES.items():
            assert found[key].shape == picture.shape
            if picture.ndim == 3:
                assert (found[key] == picture).all()
            else:
                assert np.abs(found[key] - picture).max() <= 0.5 / 255 + 1e-9


def test_values_outside_0_to_1_are_clipped():
    found = unpack(*pack({("a", "b"): np.array([[-1.0, 2.0]])}))
    assert found["a", "b"].tolist() == [[0, 1]]


# ---- what is kept -----------------------------------------------------------------------------
def test_photographs_of_data_sets_are_not_published(tmp_path):
    source = tmp_path / "run" / "figures"
    source.mkdir(parents=True)
    for name in ("growth", "samples", "photographs", "claims"):
        for suffix in ("csv", "pixels.png", "png", "md"):
            (source / f"{name}.{suffix}").write_text(name)
    (source / "old.csv").write_text("of another run")
    for data in ("scenes", "voc", "coco"):
        run = SimpleNamespace(folder=tmp_path / "run", profile=SimpleNamespace(data=data))
        drawn = {p.name for p in source.iterdir()} - {"old.csv"}  # of another run
        figures.publish(run, drawn, tmp_path / data)
        kept = {p.name for p in (tmp_path / data).iterdir()}
        if data == "scenes":
            assert kept == drawn
        else:
            assert {name.split(".")[0] for name in kept} == {"photographs", "claims"}


def test_rows_of_fewer_trainings_than_others_say_so():
    table = seed_scores().assign(trainings=3)
    table.loc[table["method"] == METHODS[-1], "trainings"] = 1
    names = [
        label.get_text() for label in figures.draw("seed_scores", table).axes[0].get_yticklabels()
    ]
    assert names == [*METHODS[:-1], f"{METHODS[-1]} (trainings: 1)"]


def test_the_legend_of_tuning_has_all_trainings():
    rows = [
        {"method": m, "training": k, "stage": "lr", "lr": lr, "gain": 1.0, "chosen": lr == 1e-5}
        for m, seeds in (("RIB paper, GAP", 1), ("RIB official, GAP", 3))
        for k in range(seeds)
        for lr in (1e-6, 1e-5)
    ]
    drawn = figures.draw("tuning", pd.DataFrame(rows))
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["0", "1", "2"]


def test_a_paragraph_is_kept_beside_the_figures_and_shown(tmp_path):
    run = SimpleNamespace(folder=tmp_path)
    assert figures.tell(run, "where", "On objects.").data == "On objects."
    assert (tmp_path / "figures" / "where.md").read_text() == "On objects.\n"


@pytest.mark.skipif(not KEPT.is_dir(), reason="no figures are kept yet")
def test_every_kept_figure_has_its_table_and_every_table_its_figure():
    drawn = {path.with_suffix("") for path in KEPT.glob("*/*.pdf")}
    tables = {path.with_suffix("") for path in KEPT.glob("*/*.csv")}
    assert drawn == tables
    assert drawn
    assert {path.name for path in tables} <= set(FIGURES)
    kept = set(KEPT.glob("*/*"))
    galleries = {path for path in tables if "panel" in path.with_suffix(".csv").open().readline()}
    suffixes = (".csv", *figures.NO_DATE)
    expected = {path.with_suffix(suffix) for path in tables for suffix in suffixes}
    expected |= {path.with_suffix(figures.PIXELS) for path in galleries}
    assert kept - set(KEPT.glob("*/*.md")) == expected
    names = {path.name.split(".")[0] for path in kept if path.parent.name == "voc-lite"}
    assert not names & figures.UNPUBLISHED


def not_drawn_from(path):
    """The pictures beside a table that were drawn from another one."""
    said, every = figures.checksum(path).encode(), map(path.with_suffix, figures.NO_DATE)
    return [picture for picture in every if said not in picture.read_bytes()]


@pytest.mark.parametrize("changed", ["seed_scores.csv", "growth.csv", "growth.pixels.png"])
def test_a_picture_that_was_not_drawn_anew_is_found(changed, tmp_path):
    name = changed.split(".")[0]
    figures.save(name, TABLES[name](), tmp_path)
    path = tmp_path / f"{name}.csv"
    assert not not_drawn_from(path)
    (tmp_path / changed).write_bytes((tmp_path / changed).read_bytes() + b"\n")
    assert not_drawn_from(path) == [path.with_suffix(".png"), path.with_suffix(".pdf")]


@pytest.mark.skipif(not KEPT.is_dir(), reason="no figures are kept yet")
def test_every_kept_picture_is_drawn_from_the_table_beside_it():
    stale = [picture for path in KEPT.glob("*/*.csv") for picture in not_drawn_from(path)]
    assert not stale, "make figures draws them anew"


@pytest.mark.skipif(not KEPT.is_dir(), reason="no figures are kept yet")
def test_kept_tables_are_small():
    assert all(path.stat().st_size < 2**16 for path in KEPT.glob("*/*.csv"))
    assert all(path.stat().st_size < 2**18 for path in KEPT.glob(f"*/*{figures.PIXELS}"))
