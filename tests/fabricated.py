"""Results and scores that are made up, as the stages store them."""

from ribkit import evaluation, store
from ribkit.evaluation import Swept
from ribkit.store import Result


def stored(folder, name="made", **values):
    """A stored result of these values, in ``<folder>/<name>``."""
    result = Result(name, name, folder / name)
    store._write(result, values, {"parameters": {}, "code": "", "seconds": 0.0})
    return result


def swept_from(confusions):
    """A `Swept` of confusions ``(N, 100, n, n)``, all labels in every image."""
    count, n_classes = len(confusions), confusions.shape[-1]
    found = [evaluation.rows(range(n_classes), one) for one in confusions]
    return Swept(count, n_classes, **evaluation.gathered(found))
