"""The one training loop: poly schedule, resumable, shared by processes.

    lr(i) = lr (1 - i / iterations)^poly_power

A batch is a function of the iteration's number, and each of its views of its place in the batch
too, so that several processes make their own shares of it: the loss of all is that of one.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ribkit.networks.configs import TrainingConfig
from ribkit.runtime import distributed
from ribkit.runtime.device import device, send
from ribkit.runtime.errors import InputError
from ribkit.runtime.files import DIGITS, append_checksum, atomic_write, has_checksum
from ribkit.runtime.parallel import prefetch
from ribkit.runtime.progress import bar

CHECK_EVERY = 50  # check for NaN every CHECK_EVERY iterations; each check syncs the GPU
STATE = "training.safetensors"

View = Callable[[int, torch.Generator], tuple[Tensor, ...]]


class Objective(nn.Module):
    """A network and its loss: pixels and targets -> a scalar."""

    def __init__(self, network: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, pixels: Tensor, targets: Tensor) -> Tensor:
        return self.loss(self.network(pixels), targets)


def sgd(groups: list[dict], training: TrainingConfig) -> torch.optim.SGD:
    """SGD for groups of parameters, each with its ``lr_mult``."""
    groups = [{"params": g["params"], "lr": training.lr * g["lr_mult"]} for g in groups]
    settings = {"momentum": training.momentum, "weight_decay": training.weight_decay}
    return torch.optim.SGD(groups, **settings)


def fit(
    objective: nn.Module,
    optimiser: torch.optim.Optimizer,
    view: View,
    count: int,
    iterations: int,
    training: TrainingConfig,
    scratch: Path,
    name: str,
    lr_setting: str,
    monitor: Callable[[], list[float]] | None = None,
) -> tuple[Tensor, Tensor]:
    """Train in place; interrupted, it goes on from its last state, on a CPU to the same bits.

    ``objective`` takes the tensors of a batch and returns the loss. ``view`` makes them, to be
    stacked, of an image's number, below ``count``, and a generator. A loss that is not finite
    raises InputError: ``name`` is what is trained, ``lr_setting`` what to lower. Returns the losses
    ``(iterations,)`` and, a row for each epoch, what ``monitor`` measures.
    """
    places = share(training.batch)
    objective.to(memory_format=torch.channels_last)  # quicker on every device
    rates = [group["lr"] for group in optimiser.param_groups]
    losses = torch.zeros(iterations, device=device())
    start, monitored = _resume(scratch, objective, optimiser, losses)
    model = DistributedDataParallel(objective) if distributed.world() > 1 else objective
    made = batches(view, count, training, range(start, iterations), places)
    gpus = [device()] if device().type == "cuda" else []
    with torch.random.fork_rng(gpus):  # what a network draws is a function of the iteration too
        for iteration, batch in zip(bar(range(start, iterations), name), made, strict=True):
            decay = (1 - iteration / iterations) ** training.poly_power
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * decay
            rank = training.batch + distributed.rank()  # behind the places of the batch
            torch.manual_seed(_combine_seeds(training.rng_seed, iteration, rank))
            loss = model(*(send(tensor, device()) for tensor in batch))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses[iteration] = distributed.all_reduce_sum(loss.detach()) / distributed.world()
            done = iteration + 1
            if monitor and done % steps_per_epoch(count, training.batch) == 0:
                monitored.append(monitor())
            is_checkpoint = done % training.checkpoint == 0
            if is_checkpoint or done % CHECK_EVERY == 0 or done == iterations:
                _require_finite(losses[:done], name, lr_setting)
            if is_checkpoint and distributed.rank() == 0:
                _keep(scratch, objective, optimiser, losses[:done], monitored)
    return losses.cpu(), torch.tensor(monitored)


def steps_per_epoch(count: int, batch: int) -> int:
    """The iterations of an epoch of ``count`` images."""
    return max(1, count // batch)


def epoch_history(losses: Tensor, epochs: int) -> pd.DataFrame:
    """The mean loss of each epoch, a row each."""
    means = losses.view(epochs, -1).mean(dim=1).tolist()
    return pd.DataFrame({"epoch": range(1, epochs + 1), "loss": means})


# ---- batches ------------------------------------------------------------------------------------
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
    view: View, count: int, training: TrainingConfig, iterations: range, places: range
) -> Iterator[list[Tensor]]:
    """The ``places`` of some iterations' batches, made ahead in threads.

    Each epoch has all images, in an order of its own; a batch may span two.
    """

    def one_view(place: tuple[int, int]) -> tuple[Tensor, ...]:
        iteration, position = place
        epoch, row = divmod(iteration * training.batch + position, count)
        seed = _combine_seeds(training.rng_seed, iteration, position)
        generator = torch.Generator().manual_seed(seed)
        return view(order(count, epoch, training.rng_seed)[row], generator)

    wanted = ((iteration, position) for iteration in iterations for position in places)
    views = prefetch(one_view, wanted, 2 * len(places))
    for _ in iterations:
        yield [torch.stack(parts) for parts in zip(*(next(views) for _ in places), strict=True)]


@lru_cache(maxsize=4)
def order(count: int, epoch: int, rng_seed: int) -> list[int]:
    """The order of the images in an epoch."""
    return np.random.default_rng([rng_seed, epoch]).permutation(count).tolist()


def _combine_seeds(*seeds: int) -> int:
    return int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0])


def _require_finite(losses: Tensor, name: str, lr_setting: str) -> None:
    wrong = (~losses.isfinite()).nonzero()
    if len(wrong):
        first = int(wrong[0])
        raise InputError(
            f"the {name}'s loss is {float(losses[first])} at iteration {first}: its rate is too "
            f"high; lower {lr_setting}."
        )


# ---- states -------------------------------------------------------------------------------------
def _keep(scratch: Path, objective: nn.Module, optimiser, losses: Tensor, monitored: list) -> None:
    """Write a training's state, whole or not at all: that of the iterations with ``losses``."""
    state = {f"weights.{name}": value for name, value in objective.state_dict().items()}
    for number, kept in optimiser.state_dict()["state"].items():
        state |= {f"optimiser.{number}.{name}": value for name, value in kept.items()}
    state |= {"losses": losses, "monitored": torch.tensor(monitored)}
    with atomic_write(scratch / STATE) as partial:
        partial.write_bytes(save({k: v.detach().cpu().contiguous() for k, v in state.items()}))
        append_checksum(partial)


def _resume(scratch: Path, objective: nn.Module, optimiser, losses: Tensor) -> tuple[int, list]:
    """Bring objective, optimiser and losses to the state that `_keep` wrote, if any.

    Returns the iterations done and what was measured. A damaged state counts as none.
    """
    if not has_checksum(scratch / STATE):
        return 0, []
    state = load((scratch / STATE).read_bytes()[:-DIGITS])

    def under(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

    objective.load_state_dict(under("weights."))
    kept: dict[int, dict[str, Tensor]] = defaultdict(dict)
    for key, value in under("optimiser.").items():
        number, name = key.split(".")
        kept[int(number)][name] = value
    optimiser.load_state_dict(optimiser.state_dict() | {"state": kept})
    done = len(state["losses"])
    losses[:done] = state["losses"]
    return done, state["monitored"].tolist()
