"""Gradient maps and HGR by hand, what cancels, and the stage end to end on few images."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from ribkit.data import digits
from ribkit.results import tables_toy
from ribkit.study import toy


@pytest.fixture(scope="module")
def data():
    return digits.load(n_train=60, n_test=12)


@pytest.fixture(scope="module")
def result(data, tmp_path_factory):
    how = {"thresholds": (0.3,), "scratch": tmp_path_factory.mktemp("toy")}
    return toy.experiment(data, ("sigmoid", "softmax"), (0, 1), steps=12, **how)


def by_hand(head: torch.Tensor) -> toy.Network:
    """Convolutions that copy their one channel, a given head of shape (2, 16), no bias."""
    network = toy.Network(0, channels=1, side=4)
    for convolution in network.convolutions:
        convolution.weight.data.zero_()[0, 0, 1, 1] = 1
    network.head.weight.data = head
    return network


def test_gradient_maps_of_a_network_by_hand():
    image = np.zeros((1, 4, 4), np.uint8)
    image[0, :2] = 255
    head = torch.stack([torch.linspace(-1, 1, 16), torch.full((16,), 0.25)])
    maps = toy.gradient_maps(by_hand(head), image, np.array([0], np.uint8), "sigmoid")
    lit = (image[0] > 0).astype(float)
    np.testing.assert_array_equal(maps[1, "before", "sum"][0], np.ones((4, 4)))
    np.testing.assert_array_equal(maps[5, "after", "sum"][0], lit)
    weights = head.double().numpy().reshape(2, 4, 4)
    np.testing.assert_allclose(maps[6, "before", "target"][0], abs(weights[0]) * lit)
    np.testing.assert_allclose(maps[6, "before", "sum"][0], abs(weights.sum(0)) * lit)
    z = (weights * lit).sum((1, 2))
    slope = 1 / (1 + np.exp(-z)) * (1 - 1 / (1 + np.exp(-z)))
    np.testing.assert_allclose(maps[6, "after", "target"][0], slope[0] * abs(weights[0]) * lit)
    both = abs(slope @ weights.reshape(2, 16)).reshape(4, 4) * lit
    np.testing.assert_allclose(maps[6, "after", "sum"][0], both, rtol=1e-9)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "softsign", "none"])
def test_scaled_by_image_the_target_map_does_not_see_the_activation(data, activation):
    maps = toy.gradient_maps(toy.Network(3), data.test.images, data.test.labels, activation)
    before, after = (toy.scaled(maps[6, r, "target"]) for r in ("before", "after"))
    np.testing.assert_allclose(before, after, atol=1e-9)


def test_softmax_outputs_sum_to_a_constant(data):
    maps = toy.gradient_maps(toy.Network(3), data.test.images, data.test.labels, "softmax")
    assert maps[6, "after", "sum"].max() < 1e-13 * maps[6, "before", "target"].max()


def test_maps_agree_with_finite_differences(data):
    network = toy.Network(1).double()
    image, label = data.test.images[:1], data.test.labels[:1]
    expected = toy.gradient_maps(network, image, label, "tanh")[6, "after", "sum"][0]
    x = toy.as_input(image).double()
    for row, column in ((10, 12), (20, 15)):
        step = torch.zeros_like(x)
        step[0, 0, row, column] = 1e-6
        up, down = (network(x + s).tanh().sum().item() for s in (step, -step))
        assert expected[row, column] == pytest.approx(abs(up - down) / 2e-6, rel=1e-4, abs=1e-8)


def test_activations_are_torchs_and_their_slopes_do_not_round_to_zero():
    z = torch.tensor([[0.3, -2.0], [60.0, -55.0]], dtype=torch.float64, requires_grad=True)
    theirs = {"sigmoid": torch.sigmoid(z), "softmax": z.softmax(1), "tanh": z.tanh()}
    for name, expected in theirs.items():
        y = toy.ACTIVATIONS[name][0](z)
        torch.testing.assert_close(y, expected)
        assert (torch.autograd.grad(y[:, 0].sum(), z)[0][:, 0] > 0).all()


def test_hgr_by_hand():
    maps = np.array([[[0.3, 0.31], [1.0, 0.0]]])
    regions = np.array([[[1, 1], [1, 0]]])
    shares = toy.hgr(maps, regions, 0.3)
    assert shares["discriminative"] == pytest.approx(2 / 3)
    assert shares["irrelevant"] == 0
    assert np.isnan(shares["non-discriminative"])


def test_scaled():
    maps = np.array([[[2.0, 1.0]], [[0.5, 0.0]], [[0.0, 0.0]]])
    per_image = toy.scaled(maps)
    np.testing.assert_array_equal(per_image[:, 0], [[1, 0.5], [1, 0], [0, 0]])
    np.testing.assert_array_equal(toy.scaled(maps, "set"), maps / 2)


def test_training_learns_is_seeded_and_leaves_the_global_state(data, tmp_path):
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    nets = [toy.train(data.train, "softsign", 5, 50, tmp_path)[0] for _ in range(2)]
    assert torch.equal(torch.rand(1), expected)
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(a, b)
    right = nets[0](toy.as_input(data.train.images)).argmax(1).numpy() == data.train.labels
    assert right.mean() > 0.9


def test_losses_agree_with_their_words():
    z = torch.tensor([[0.3, -2.0], [1.5, 0.1]], dtype=torch.float64)
    t = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    for name, lowest, highest in (("sigmoid", 0, 1), ("tanh", -1, 1), ("softsign", -1, 1)):
        activation, loss = toy.ACTIVATIONS[name]
        p = (activation(z) - lowest) / (highest - lowest)
        bce = -(t * p.log() + (1 - t) * (1 - p).log()).mean()
        assert loss(z, t).item() == pytest.approx(bce.item())
    p = toy.ACTIVATIONS["softmax"][0](z)
    loss = -(t * p.log()).sum(1).mean().item()
    assert toy.ACTIVATIONS["softmax"][1](z, t).item() == pytest.approx(loss)


def test_experiment_end_to_end(result):
    hgr, networks = result["hgr"], result["networks"]
    assert set(networks.condition) == {"trained", "untrained", "random shapes"}
    assert len(networks) == 8
    assert len(hgr) == 8 * 14 * 2 * 3
    softmax_sum = (hgr.activation == "softmax") & (hgr.layer == 6) & (hgr.output == "sum")
    assert hgr[softmax_sum & (hgr.reading == "after")].hgr.isna().all()
    assert hgr[~(softmax_sum & (hgr.reading == "after"))].hgr.between(0, 1).all()
    assert result["example"]["maps"].shape == (2, len(toy.EXAMPLE_MAPS), 28, 28)
    assert np.nanmax(result["example"]["maps"]) == 1


def test_interval_is_student_t():
    values = [0.1, 0.4, 0.3, np.nan]
    row = tables_toy.interval(values)
    low, high = stats.t.interval(0.95, 2, np.mean(values[:3]), stats.sem(values[:3]))
    assert (row["low"], row["high"], row["n"]) == (pytest.approx(low), pytest.approx(high), 3)
    assert np.isnan(tables_toy.interval([1.0])["low"])


def test_last_drop_of_the_papers_own_curve():
    rows = [
        {"activation": "sigmoid", "condition": "trained", "seed": rng_seed, "layer": layer,
         "reading": "after", "output": "sum", "scale": "image", "threshold": 0.3,
         "region": region, "hgr": curve[layer - 1] - 0.01 * rng_seed * (layer == 6)}
        for region, curve in toy.PAPER_HGR.items()
        for layer in range(1, 7) for rng_seed in range(3)
    ]  # fmt: skip
    row = tables_toy.last_drop(pd.DataFrame(rows)).iloc[0]
    assert row["mean"] == pytest.approx(0.76 - 0.23)
    assert row["n"] == 3
    assert row["high"] - row["low"] == pytest.approx(0, abs=1e-9)


def test_tables_of_an_experiment(result):
    hgr = result["hgr"]
    removal = tables_toy.removal(hgr)
    own = removal[(removal.output == "target") & (removal.activation == "sigmoid")]
    assert (own["mean"].abs() < 1e-3).all()
    curve = tables_toy.curve(hgr)
    assert tuple(curve[curve.region == "irrelevant"].paper) == toy.PAPER_HGR["irrelevant"]


def test_further_tables_of_an_experiment(result):
    hgr = result["hgr"]
    assert list(tables_toy.sensitivity(hgr)) == ["image, 0.3", "set, 0.3"]
    shares = tables_toy.transmitted(hgr)
    assert shares[shares.activation == "sigmoid"].share.between(0, 0.25).all()
    twice = pd.concat([hgr, hgr[hgr.activation == "sigmoid"].assign(activation="none")])
    assert (tables_toy.trained_without(twice)["mean"] == 0).all()
    found = tables_toy.gradient_pictures(result["example"])
    assert len(found) == 2 * 9
    assert all(picture.shape == (28, 28) for picture in found.values())
    np.testing.assert_allclose(found["2", "G1"], result["example"]["maps"][0, 0])


def dosed(knows, drop):
    """Doses 0.1 and 1.0, three seeds: at 1.0 the shape is known if so, and loses ``drop`` more."""
    rows = [
        {"dose": dose, "condition": condition, "seed": seed, "shape_only": 0.5 + 0.01 * seed}
        | {"G5 shape": 0.9, "G6 shape": 0.2, "drop shape": 0.3, "drop digit": 0.2 + 0.01 * seed}
        for dose in (0.1, 1.0)
        for condition in ("trained", "random shapes")
        for seed in (0, 1, 2)
    ]
    table = pd.DataFrame(rows)
    at = (table["dose"] == 1) & (table["condition"] == "trained")
    table.loc[at, "shape_only"] += 0.4 * knows
    table.loc[at, "drop shape"] += drop
    return table


def test_the_doses_sentence_follows_the_numbers():
    told = tables_toy.dose_answer(dosed(True, 0.25))
    assert "it surely knows it at 100 %" in told
    assert "; 0.91 (0.89 to 0.93) at 100 % of the time" in told
    assert "loses from G5 to G6 0.34 (0.32 to 0.36) more HGR" in told
    assert "(the paper: 0.53). Less the same of a shape that says nothing: 0.25 (0.25 to" in told
    assert "at none of these does it surely know it" in tables_toy.dose_answer(dosed(False, 0.25))


def test_doses_of_an_experiment(result):
    found = SimpleNamespace(table=result.__getitem__)
    table = tables_toy.doses({0.1: found, 0.3: found})
    assert len(table) == 2 * 2 * 2  # doses, conditions, seeds; one activation, none untrained
    drops = tables_toy.region_drops(result["hgr"]).query("output == 'sum' and reading == 'after'")
    drops = drops.set_index(["activation", "condition", "region"])["mean"]
    own = table[(table["condition"] == "trained") & (table["dose"] == 0.3)]
    expected = drops["sigmoid", "trained", "non-discriminative"]
    assert own["drop shape"].mean() == pytest.approx(expected)
    np.testing.assert_allclose(own["G5 digit"] - own["G6 digit"], own["drop digit"])
    points = tables_toy.dose_points(table)
    assert len(points) == 2 * 2 * 3
    assert tables_toy.dose_text(table).shape == (4, 5)


def test_an_experiment_has_the_controls_that_are_asked_for(data, tmp_path):
    how = {"steps": 1, "thresholds": (0.3,), "scratch": tmp_path}
    found = toy.experiment(data, ("sigmoid",), (0,), controls=("random shapes",), **how)
    assert list(found["networks"]["condition"]) == ["trained", "random shapes"]


def test_pictures_of_the_examples(data):
    found = tables_toy.example_pictures(data)
    names = list(dict.fromkeys(name for name, _ in found))
    assert names == ["2", "2, with its disc", "8", "8, with its square"]
    assert len(found) == 4 * 2
    with_disc = found["2, with its disc", "region"]
    assert set(np.unique(np.round(2 * with_disc))) == {0, 1, 2}
    assert found["2", "region"].max() < 0.75  # digit, and no shape
