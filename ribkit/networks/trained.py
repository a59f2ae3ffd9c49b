"""A trained network as stages are given it: what builds it, and its stored weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from ribkit.runtime.device import device


@dataclass(frozen=True)
class TrainedModel:
    """A network that was trained and stored; picklable, and a parameter of stages."""

    build: Callable[..., nn.Module]  # a module's function, for example `deeplab.build`
    options: tuple[tuple[str, Any], ...]  # its arguments by name
    weights: Mapping[str, Tensor]  # what the training stored

    @classmethod
    def of(
        cls, build: Callable[..., nn.Module], trained: Mapping[str, Tensor], /, **options: Any
    ) -> "TrainedModel":
        """The network that ``build(**options)`` makes, with these trained weights."""
        return cls(build, tuple(options.items()), trained)

    def load(self) -> nn.Module:
        """The network with its weights, on the device that computes, to predict with."""
        network = self.build(**dict(self.options))
        network.load_state_dict(self.weights)
        return network.to(device()).eval()


@lru_cache(maxsize=2)
def loaded(model: TrainedModel) -> nn.Module:
    """`TrainedModel.load`, once in each process for the models used last."""
    return model.load()
