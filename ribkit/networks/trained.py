"""A trained network as stages are given it: what builds it, and its stored weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from ribkit.runtime.device import device


@dataclass(frozen=True)
class TrainedModel:
    """A network that was trained and stored; picklable, and a parameter of stages.

    Attributes:
        build: A module's function that makes the network without its weights, for example
            `classifier.trained_network`, `deeplab.build` or `affinity.build`.
        options: Its arguments, as pairs of a name and a value.
        weights: What the training stored, name -> tensor.
    """

    build: Callable[..., nn.Module]
    options: tuple[tuple[str, Any], ...]
    weights: Mapping[str, Tensor]

    def load(self) -> nn.Module:
        """Build the network; its weights loaded, on the device that computes, to predict with."""
        network = self.build(**dict(self.options))
        network.load_state_dict(self.weights)
        return network.to(device()).eval()


@lru_cache(maxsize=2)
def loaded(model: TrainedModel) -> nn.Module:
    """`TrainedModel.load`, once in each process for the models used last."""
    return model.load()
