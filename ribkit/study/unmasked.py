"""The study's chain on photographs without masks: nothing is tuned, nothing is scored.

Of each setting the first candidate of the profile is taken. Thresholds are `mask_free`'s, of the
seeds and again of what IRN's walk makes of them.
"""

from functools import cached_property
from pathlib import Path

import pandas as pd

from ribkit.data.images import ImageSet
from ribkit.evaluation.thresholds import THRESHOLDS
from ribkit.evaluation.tuning import Axis, Tuned
from ribkit.networks.architectures import Weights
from ribkit.runtime.store import Result, StoredArrays
from ribkit.study import mask_free, weights
from ribkit.study.inputs import some
from ribkit.study.pipeline import Refinement, Seeds
from ribkit.study.study import Method, Study

MONITORED = 32  # photographs on which the classifier's training is watched


class Unmasked(Study):
    """A study of one set of photographs, of the profile ``label``.

    Args:
        folder: Where the photographs lie.
        images: The photographs and their labels; no mask is ever asked of them.
        overrides: Settings of the profile by name.
        trained: The file of a classifier of these classes, by `weights.save`; None: one is
            trained on the photographs.
    """

    def __init__(
        self, folder: Path, images: ImageSet, overrides: dict, trained: Weights | None = None
    ):
        super().__init__("label", str(folder), overrides)
        self.train = self.scored = images
        self.tuning = some(images, MONITORED, self.profile.rng_seed)
        self.trained = trained

    @cached_property
    def classifier(self) -> Result:
        """The classifier given, or the one that is trained."""
        if self.trained:
            return self.store.run(weights.given, file=self.trained)
        call = self.training()
        return self.store.run(call.func, **call.keywords)

    def tuned(self, method: Method) -> Tuned:
        """The first candidate of each setting."""
        return _first(self._axes(method))


def _first(axes: list[Axis]) -> Tuned:
    """The first candidate of each axis; nothing was tried."""
    return Tuned(pd.DataFrame(), {axis.name: axis.values[0] for axis in axes})


class UnmaskedRefinement(Refinement):
    """What happens to one method's seeds of these photographs until they are pseudo labels.

    A threshold that is given is that of the seeds, and that of the walked maps.
    """

    def __init__(self, study: Unmasked, method: Method, threshold: float | None = None):
        super().__init__(study, method)
        self.given = threshold

    @property
    def learned(self) -> tuple[Seeds, ...]:
        """The photographs with their seeds."""
        return (self.scored,)

    @cached_property
    def threshold(self) -> float:
        """The seeds' threshold."""
        return self._threshold(self.scored[1])

    @cached_property
    def irn_tuned(self) -> Tuned:
        """The first candidate of each setting of IRN's walk."""
        return _first(self.irn_axes)

    @cached_property
    def irn_threshold(self) -> float:
        """The walked maps' threshold."""
        return self._threshold(self.irn_maps(*self.scored))

    def _threshold(self, maps: StoredArrays) -> float:
        if self.given is not None:
            return self.given
        return float(THRESHOLDS[mask_free.threshold(self.study.store, self.study.scored, maps)])
