"""The one training loop: SGD with the poly schedule, resumable, on one or several processes.

    lr(i) = lr lr_mult (1 - i / iterations)^poly_power

What is trained is an *objective*, a module whose forward pass takes a batch and returns the loss.
A batch is a function of the iteration's number, and each of its views of its place in the batch
too, so that several processes make their own shares of it: the loss of all is that of one.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from pydantic.dataclasses import dataclass
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ribkit.runtime import distributed
from ribkit.runtime.device import device
from ribkit.runtime.errors import InputError
from ribkit.runtime.files import DIGITS, append_checksum, atomic_write, has_checksum
from ribkit.runtime.parallel import prefetch
from ribkit.runtime.progress import bar
from ribkit.runtime.settings import Count, CountOrZero, NotNegative

CHECKED = 50  # after how many iterations the losses are looked at, for which a GPU must wait
STATE = "training.safetensors"


@dataclass(frozen=True)
class TrainingConfig:
    """How SGD trains a network. Defaults: the official code's for the classifier, on VOC."""

    batch: Count = 16  # of all processes together
    lr: NotNegative = 0.1
    momentum: NotNegative = 1e-4  # in effect, in the official code (difference 7)
    weight_decay: NotNegative = 1e-4
    poly_power: NotNegative = 0.9
    crop: Count = 512  # the side of a training view, in pixels
    checkpoint: Count = 1000  # after how many iterations the training can go on from its last state
    rng_seed: CountOrZero = 0


View = Callable[[int, torch.Generator], tuple[Tensor, ...]]


def steps(count: int, batch: int) -> int:
    """The iterations of an epoch of ``count`` images."""
    return max(1, count // batch)


def fit(
    objective: nn.Module,
    groups: list[dict],
    view: View,
    count: int,
    iterations: int,
    training: TrainingConfig,
    scratch: Path,
    words: str,
    setting: str,
    watch: Callable[[], list[float]] | None = None,
    period: int = 1,
) -> tuple[Tensor, Tensor]:
    """Train an objective in place.

    groups: parameters, each with the ``factor`` by which it learns faster. view: an image's number,
    below ``count``, and a generator -> what the objective takes of it, to be stacked. scratch:
    where an interrupted training goes on from; on a CPU it ends with the same bits as one that was
    not. words: what is trained, and setting: its rate's name, for the user. watch: what is measured
    after every ``period`` iterations. Returns the losses ``(iterations,)`` and what was watched
    ``(periods, values)``. Raises InputError where the batch cannot be shared by the processes, and
    for a loss that is not finite.
    """
    own = share(training.batch)
    optimiser = torch.optim.SGD(
        groups, lr=training.lr, momentum=training.momentum, weight_decay=training.weight_decay
    )
    losses = torch.zeros(iterations, device=device())
    start, watched = resume(scratch, objective, optimiser, losses)
    model = objective
    if distributed.world() > 1:
        model = DistributedDataParallel(objective)
    views = batches(view, count, training, range(start, iterations), own)
    gpus = [device()] if device().type == "cuda" else []
    with torch.random.fork_rng(gpus):  # what a network draws is a function of the iteration too
        for iteration, batch in zip(bar(range(start, iterations), words), views, strict=True):
            _set_rate(optimiser, training, iteration / iterations)
            torch.manual_seed(
                _seed(training.rng_seed, iteration, training.batch + distributed.rank())
            )
            loss = model(*map(_to_device, batch))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            losses[iteration] = distributed.all_reduce_sum(loss.detach()) / distributed.world()
            done = iteration + 1
            if watch and done % period == 0:
                watched.append(watch())
            kept = done % training.checkpoint == 0
            if kept or done % CHECKED == 0 or done == iterations:
                _check(losses[:done], words, setting)
            if kept and distributed.rank() == 0:
                keep(scratch, objective, optimiser, losses[:done], watched)
    return losses.cpu(), torch.tensor(watched)


def share(batch: int) -> range:
    """The places in the batch that are this process's. Raises InputError for uneven shares."""
    world, rank = distributed.world(), distributed.rank()
    if batch % world:
        raise InputError(
            f"a batch of {batch} cannot be shared by {world} processes; make one a multiple of the "
            "other."
        )
    return range(rank * batch // world, (rank + 1) * batch // world)


def batches(
    view: View, count: int, training: TrainingConfig, iterations: range, own: range
) -> Iterator[list[Tensor]]:
    """The batches of some iterations, or of each the places ``own``, made ahead in threads."""

    def one(place: tuple[int, int]) -> tuple[Tensor, ...]:
        iteration, position = place
        row = order(count, training.batch, iteration, training.rng_seed)[position]
        generator = torch.Generator().manual_seed(_seed(training.rng_seed, iteration, position))
        return view(row, generator)

    places = ((iteration, position) for iteration in iterations for position in own)
    views = prefetch(one, places, 2 * len(own))
    for _ in iterations:
        yield [torch.stack(parts) for parts in zip(*(next(views) for _ in own), strict=True)]


def order(count: int, batch: int, iteration: int, rng_seed: int) -> list[int]:
    """Which images iteration ``iteration`` sees: all of them, in an order drawn anew each epoch.

    A batch may span two epochs. A function of its arguments, so that a training can resume.
    """
    first = iteration * batch
    drawn = []
    for position in range(first, first + batch):
        epoch, place = divmod(position, count)
        drawn.append(_permutation(count, epoch, rng_seed)[place])
    return drawn


@lru_cache(maxsize=4)
def _permutation(count: int, epoch: int, rng_seed: int) -> list[int]:
    return np.random.default_rng([rng_seed, epoch]).permutation(count).tolist()


def _seed(*numbers: int) -> int:
    """One seed out of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _to_device(tensor: Tensor) -> Tensor:
    """The tensor where it is computed with; the copy to a GPU is not waited for."""
    if device().type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device(), non_blocking=True)


def _set_rate(optimiser: torch.optim.Optimizer, training: TrainingConfig, done: float) -> None:
    """The poly schedule's rate when a share ``done`` of all iterations is over."""
    for group in optimiser.param_groups:
        group["lr"] = training.lr * group["lr_mult"] * (1 - done) ** training.poly_power


def _check(losses: Tensor, words: str, setting: str) -> None:
    """Raises InputError for the first loss that is not finite."""
    wrong = (~losses.isfinite()).nonzero()
    if len(wrong):
        first = int(wrong[0])
        raise InputError(
            f"the {words}'s loss is {float(losses[first])} at iteration {first}: its rate is too "
            f"high; lower {setting}."
        )


def keep(scratch: Path, objective: nn.Module, optimiser, losses: Tensor, watched: list) -> None:
    """Write a training's state, whole or not at all: that of the iterations with ``losses``."""
    state = {f"weights.{k}": v for k, v in objective.state_dict().items()}
    for number, parameter in enumerate(_parameters(optimiser)):
        momentum = optimiser.state[parameter].get("momentum_buffer")
        if momentum is not None:
            state[f"momentum.{number}"] = momentum
    state |= {"losses": losses, "watched": torch.tensor(watched)}
    with atomic_write(scratch / STATE) as partial:
        partial.write_bytes(save({k: v.detach().cpu().contiguous() for k, v in state.items()}))
        append_checksum(partial)


def resume(scratch: Path, objective: nn.Module, optimiser, losses: Tensor) -> tuple[int, list]:
    """Bring objective, optimiser and losses to the state that `keep` wrote, if any.

    Returns the iterations done and what was watched. A damaged state counts as none.
    """
    if not has_checksum(scratch / STATE):
        return 0, []
    state = load((scratch / STATE).read_bytes()[:-DIGITS])
    own = {k.removeprefix("weights."): v for k, v in state.items() if k.startswith("weights.")}
    objective.load_state_dict(own)
    for number, parameter in enumerate(_parameters(optimiser)):
        if f"momentum.{number}" in state:
            momentum = state[f"momentum.{number}"].to(parameter.device)
            optimiser.state[parameter]["momentum_buffer"] = momentum
    done = len(state["losses"])
    losses[:done] = state["losses"]
    return done, state["watched"].tolist()


def _parameters(optimiser: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimiser.param_groups for p in group["params"]]
