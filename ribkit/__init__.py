"""RIB: *Reducing Information Bottleneck for Weakly Supervised Semantic Segmentation*.

Lee, Choi, Mok, Yoon: NeurIPS 2021, arXiv:2110.06530. The notebooks tell the story, these modules
hold the formulas. Where a docstring says "paper" it means that text; "official" means the code the
authors released, which was read but not copied.

The names below are loaded when they are first used, so ``import ribkit`` costs nothing. Of them
`compare` and `label` are modules: their functions are ``ribkit.compare.compare`` and
``ribkit.label.label``.

Example:
    >>> import torch
    >>> from ribkit import gndrp
    >>> cam, labels = torch.tensor([[[[10.0, 4.0], [1.0, -2.0]]]]), torch.ones(1, 1)
    >>> gndrp(cam, labels, tau=0.4).tolist()  # the mean of what is at most 0.4 of the maximum
    [[1.0]]
"""

import os
from importlib import import_module

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch takes large tensors in large pages

_MODULES = {
    "Settings": "ribkit.method.settings",
    "Study": "ribkit.study.study",
    "adapt": "ribkit.method.adaptation",
    "compare": "ribkit.compare",
    "gap": "ribkit.method.pooling",
    "gndrp": "ribkit.method.pooling",
    "label": "ribkit.label",
    "rib_loss": "ribkit.method.losses",
}
__all__ = list(_MODULES)


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_MODULES[name])
    return module if module.__name__ == f"{__name__}.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return __all__
