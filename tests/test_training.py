"""The training loop on a line: its schedule by hand, its batches, its states."""

import dataclasses
import itertools

import pytest
import torch
from torch import nn

from ribkit.networks import configs, training
from ribkit.runtime.errors import InputError

SETTINGS = configs.DeepLabConfig(batch=2, lr=0.1, momentum=0.9, weight_decay=0.0, checkpoint=3)


class Line(nn.Module):
    """Mean squared distance of a x from 2 x."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return (self.a * x - 2 * x).square().mean()


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch):
    monkeypatch.setenv("RIBKIT_DEVICE", "cpu")


def view(row, generator):
    return (row + torch.rand((), generator=generator),)


def sgd(parameters, settings):
    return training.sgd([{"params": parameters, "lr_mult": 2.0}], settings)


def adam(parameters, settings):
    return torch.optim.Adam(parameters, settings.lr)


def fitted(scratch, settings=SETTINGS, see=view, iterations=8, optimiser=sgd, **more):
    scratch.mkdir(exist_ok=True)
    line = Line()
    found = training.fit(
        line,
        optimiser([line.a], settings),
        see,
        5,
        iterations,
        settings,
        scratch,
        "line",
        "line.lr",
        **more,
    )
    return line.a.detach(), *found


def test_the_first_steps_by_hand(tmp_path):
    settings = configs.DeepLabConfig(batch=1, lr=0.1, momentum=0.0, weight_decay=0.0)
    a, losses, _ = fitted(tmp_path, settings, lambda *_: (torch.ones(()),), iterations=2)
    # loss (a - 2)^2, gradient 2 (a - 2), rates 2 * 0.1 and 2 * 0.1 * (1/2)^0.9
    first = 0.2 * 4
    second = first + 0.2 * 0.5**0.9 * 2 * (2 - first)
    assert losses.tolist() == pytest.approx([4, (first - 2) ** 2])
    assert float(a) == pytest.approx(second)


@pytest.mark.parametrize(("optimiser", "momentum"), [(sgd, 0.9), (sgd, 0.0), (adam, 0.0)])
def test_a_training_that_goes_on_ends_with_the_same_bits(
    tmp_path, monkeypatch, optimiser, momentum
):
    def measure():
        return [1.0, 2.5]

    settings = dataclasses.replace(SETTINGS, momentum=momentum)
    how = {"settings": settings, "optimiser": optimiser, "monitor": measure}
    whole = fitted(tmp_path / "whole", **how)
    batches = training.batches

    def stop(*arguments):
        yield from itertools.islice(batches(*arguments), 7)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(training, "batches", stop)
        with pytest.raises(KeyboardInterrupt):
            fitted(tmp_path / "cut", **how)
    assert [path.name for path in (tmp_path / "cut").iterdir()] == [training.STATE]
    resumed = fitted(tmp_path / "cut", **how)
    assert whole[2].tolist() == [[1.0, 2.5]] * 4
    assert all(torch.equal(one, other) for one, other in zip(whole, resumed, strict=True))


def test_batches_do_not_depend_on_threads_and_shares_make_the_whole(monkeypatch):
    def made(own, threads, iterations=range(6)):
        monkeypatch.setenv("RIBKIT_WORKERS", threads)
        return [x for (x,) in training.batches(view, 5, SETTINGS, iterations, own)]

    whole = torch.stack(made(range(2), "1"))
    assert whole.unique().numel() == 12
    assert torch.equal(torch.stack(made(range(2), "3")), whole)
    assert torch.equal(torch.stack(made(range(2), "3", range(4, 6))), whole[4:])
    halves = [torch.stack(made(range(i, i + 1), "1")) for i in range(2)]
    assert torch.equal(torch.cat(halves, dim=1), whole)


def test_a_loss_that_is_not_finite_is_told_with_its_setting_and_not_kept(tmp_path):
    def broken(row, generator):
        return (torch.tensor(float("nan")),)

    with pytest.raises(InputError, match=r"line.s loss is nan at iteration 0: .* lower line\.lr"):
        fitted(tmp_path, see=broken)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("rank", "own"), [(0, range(0, 3)), (1, range(3, 6))])
def test_processes_share_a_batch_or_say_why_not(monkeypatch, rank, own):
    monkeypatch.setattr(training.distributed, "world", lambda: 2)
    monkeypatch.setattr(training.distributed, "rank", lambda: rank)
    assert training.share(6) == own
    with pytest.raises(InputError, match="batch of 7 cannot be shared by 2 processes"):
        training.share(7)


def test_an_epoch_sees_every_image_once_and_a_batch_may_span_two():

    def plain(row, generator):
        return (torch.tensor(row),)

    drawn = [x for (x,) in training.batches(plain, 7, SETTINGS, range(7), range(2))]
    rows = torch.stack(drawn).flatten().tolist()
    assert sorted(rows[:7]) == sorted(rows[7:]) == list(range(7))
    assert rows[:7] != rows[7:]


def test_an_epoch_has_at_least_one_step():
    assert [training.steps_per_epoch(count, 4) for count in (3, 4, 11)] == [1, 1, 2]


def test_a_history_has_the_mean_loss_of_each_epoch():
    history = training.epoch_history(torch.tensor([1.0, 3.0, 0.0, 1.0]), 2)
    assert history.to_dict("list") == {"epoch": [1, 2], "loss": [2.0, 0.5]}
