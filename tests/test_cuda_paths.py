"""What a CPU can show of a GPU: fake tensors that pretend to be on one, and refuse mixed devices.

They hold no numbers, and nothing runs backward: the autograd engine asks for a driver.
"""

import copy
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from ribkit.evaluation import thresholds
from ribkit.method import adaptation, cam, losses, pooling
from ribkit.method.others import OtherImageSampler
from ribkit.method.settings import VARIANTS, Settings, Variant
from ribkit.networks import classifier, configs, deeplab
from ribkit.refinement import affinity, irn, psa, random_walk
from ribkit.refinement.random_walk import WALKS

SIDE, CLASSES = 48, 8
HEADS = configs.AffinityConfig(stride=4, radius=3, crop=SIDE)
HEAD = {name: configs.DeepLabConfig(aspp_rates=(1, 2, 3), head=name) for name in configs.HEADS}


def there(network, where="cuda"):
    """A copy whose tensors are on a device that may be pretended."""
    shared = {id(own): own for own in (*network.parameters(), *network.buffers())}
    network = copy.deepcopy(network, shared)
    for module in network.modules():
        for tensors in (module._parameters, module._buffers):
            for name, own in tensors.items():
                if own is not None:
                    moved = torch.empty_like(own, device=where)
                    if isinstance(own, nn.Parameter):
                        moved = nn.Parameter(moved, requires_grad=own.requires_grad)
                    tensors[name] = moved
    return network


@contextmanager
def pretended():
    """Within this tensors are fake, also those of "cuda"."""
    with FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv()):
        yield


@pytest.fixture(autouse=True)
def _gpu(monkeypatch):
    """The GPU that autocast asks for."""
    monkeypatch.setenv("RIBKIT_DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *args, **kwargs: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)  # which needs a driver


@pytest.fixture(scope="module")
def built():
    """Networks as a CPU has them, by what they are."""
    made = {
        name: classifier.trained_network("small", CLASSES, name) for name in ("float32", "bfloat16")
    }
    made |= {each.Heads.name: each.build(backbone="small", training=HEADS) for each in (irn, psa)}
    return made | {
        name: deeplab.build("small", CLASSES + 1, training) for name, training in HEAD.items()
    }


def photographs(count=2, side=SIDE):
    return 255 * torch.rand(count, 3, side, side, device="cuda")


def masks(count=2):
    return torch.zeros(count, SIDE, SIDE, dtype=torch.uint8, device="cuda")


def on_cuda(*tensors):
    return all(tensor.device.type == "cuda" for tensor in tensors)


# ---- the method -------------------------------------------------------------------------------
def test_a_tensor_that_stays_behind_is_noticed():
    with pretended(), pytest.raises(RuntimeError, match="same device"):
        torch.ones(2, device="cuda") + torch.ones(2)


@pytest.mark.parametrize("kind", ["gap", "gmp", "gndrp"])
@pytest.mark.parametrize(
    "variant", [*VARIANTS.values(), Variant(gndrp_classes=2)], ids=[*VARIANTS, "coco"]
)
def test_pooling(kind, variant):
    with pretended():
        maps, labels = torch.rand(2, CLASSES, 12, 12, device="cuda"), torch.ones(2, CLASSES)
        settings = Settings(kind, variant=variant)
        assert on_cuda(pooling.pool_maps(maps, labels.to("cuda"), settings))


@pytest.mark.parametrize("activation", losses.ACTIVATIONS)
def test_the_loss(activation):
    with pretended():
        both = torch.rand(2, 3, CLASSES, device="cuda")
        assert on_cuda(losses.rib_loss(*both, margin=1.0, activation=activation))


@pytest.mark.parametrize("stride", [1, 4])
def test_maps_of_two_scales(stride):
    with pretended():
        raw = {s: cam.flip_sum(torch.rand(2, 3, int(12 * s), 9, device="cuda")) for s in (1.0, 0.5)}
        maps = cam.multi_scale(raw, (47, 33), stride)
        assert on_cuda(maps, cam.normalise(raw[1.0]))
        assert maps.shape == (3, -(-47 // stride), -(-33 // stride))


@pytest.mark.filterwarnings("ignore:Accessing the data pointer")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_an_adaptation_up_to_its_gradients(built, monkeypatch, precision, variant):
    monkeypatch.setattr(adaptation, "_update", lambda *args: None)
    settings = Settings(steps=2, n_others=3, variant=variant)
    with pretended():
        network = there(built[precision])
        views = {s: network.features(photographs(2, int(SIDE * s))) for s in (1.0, 0.5)}
        others = network.features(photographs(3)), torch.ones(3, CLASSES, device="cuda")
        labels = torch.ones(CLASSES, device="cuda")
        steps = adaptation.trajectory(
            network.adaptable(), views, labels, lambda step: others, settings
        )
        for step in steps:
            assert on_cuda(step.logits, *step.maps.values())
            assert {maps.dtype for maps in step.maps.values()} == {torch.float32}
        wanted = torch.bfloat16 if precision == "bfloat16" else torch.float32
        assert {features.dtype for features in views.values()} == {wanted}


# ---- heads and networks -----------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["irn", "psa"])
def test_affinities_are_learnt_there(built, kind):
    with pretended():
        network = there(built[kind])
        assert on_cuda(network(photographs(), masks()))


def test_irn_predicts_there(built):
    with pretended():
        edge, shift = irn.predict(there(built["irn"]), photographs()[0])
        assert on_cuda(edge, shift)
        assert edge.shape == shift.shape[1:] == (SIDE // 4, SIDE // 4)


@pytest.mark.parametrize("head", HEAD)
def test_deeplab_learns_in_bfloat16_and_predicts_in_float32(built, head):
    with pretended():
        network = there(built[head]).train()
        logits = network(photographs())
        loss = deeplab.balanced_cross_entropy(logits, masks())
        assert (logits.dtype, loss.dtype) == (torch.bfloat16, torch.float32)
        assert on_cuda(logits, loss)
        assert network.eval()(photographs()).dtype == torch.float32


def test_deeplabs_logits_are_resized_in_float32(monkeypatch):
    """The sums of that gradient would round in bfloat16."""
    seen, resize = [], torch.nn.functional.interpolate

    def watched(tensor, *args, **kwargs):
        seen.append(tensor.dtype)
        return resize(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "interpolate", watched)
    logits = torch.zeros(1, 2, 3, 3, dtype=torch.bfloat16)
    deeplab.balanced_cross_entropy(logits, torch.zeros(1, 9, 9))
    assert seen == [torch.float32]


def test_the_others_of_a_step_are_taken_out_of_the_bank_there():
    drawn = torch.zeros(CLASSES)
    labels = torch.eye(CLASSES)
    sampler = OtherImageSampler(
        {"features": torch.rand(8, 2, 3, 3), "labels": labels}, drawn, 3, "", 0
    )
    with pretended():
        sampler.bank = {
            "features": torch.rand(8, 2, 3, 3, device="cuda"),
            "labels": torch.eye(CLASSES, device="cuda"),
        }
        assert on_cuda(*sampler(0))


# ---- the walk and the scores ------------------------------------------------------------------
class Rows:
    """A sparse matrix by rows, as much of one as `random_walk` asks for; fake tensors have none."""

    def __init__(self, starts, columns, values):
        self.starts, self.columns, self.entries = starts, columns, values

    def to(self, like):
        return Rows(*(part.to(like.device) for part in (self.starts, self.columns, self.entries)))

    def values(self):
        return self.entries

    def crow_indices(self):
        return self.starts

    def col_indices(self):
        return self.columns

    def __matmul__(self, x):
        rows = torch.repeat_interleave(self.starts.diff(), output_size=len(self.columns))
        return torch.zeros_like(x).index_add_(0, rows, self.entries[:, None] * x[self.columns])


def test_this_sparse_matrix_is_torchs(monkeypatch):
    cam_, edge = torch.rand(2, 5, 6), torch.rand(5, 6)
    expected = random_walk.propagate(cam_, edge, 3, 8, 3)
    monkeypatch.setattr(random_walk, "_csr", Rows)
    torch.testing.assert_close(random_walk.propagate(cam_, edge, 3, 8, 3), expected)


@pytest.mark.parametrize("count", [0, 2])
@pytest.mark.parametrize("walk", WALKS)
def test_irns_walk(monkeypatch, count, walk):
    monkeypatch.setattr(random_walk, "_csr", Rows)
    with pretended():
        maps, edge = torch.rand(count, 9, 12, device="cuda"), torch.rand(9, 12, device="cuda")
        walked = WALKS[walk].divided(WALKS[walk].spread(maps, edge))
        assert on_cuda(walked)
        assert walked.shape == maps.shape


@pytest.mark.parametrize("count", [0, 2])
def test_psas_walk(built, monkeypatch, count):
    monkeypatch.setattr(random_walk, "_csr", Rows)
    with pretended():
        affinities = psa.predict(there(built["psa"]), photographs()[0], 3)
        scores = psa.background(torch.rand(count, 12, 12, device="cuda"), 4.0)
        assert on_cuda(random_walk.walk(scores, affinities, 8, 2))


@pytest.mark.parametrize("count", [0, 2])
def test_the_sweep_over_thresholds(monkeypatch, count):
    """Its counts leave the device once, at its end."""
    left = []

    def cpu(tensor):
        left.append(tensor)
        return SimpleNamespace(numpy=lambda: np.zeros(tensor.shape, np.int32))

    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    with pretended():
        maps = torch.rand(count, 9, 12, device="cuda")
        thresholds.sweep(maps, np.arange(count), np.zeros((9, 12), np.uint8))
        assert on_cuda(*left)
    assert len(left) == 1


# ---- shapes -----------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [(48, 48), (33, 47), (1, 90)])
def test_shapes_of_all_networks_on_the_meta_device(built, size):
    grid = affinity.grid(size, 4)
    pixels = torch.empty(2, 3, *size, device="meta")
    for name in ("float32", *HEAD):  # without autocast, which knows no meta device
        network = there(built[name], "meta")
        last = network.classifier if name == "float32" else network.head.eval()
        found = last(network.adapted(network.frozen(pixels)))
        assert found.shape[2:] == grid
        assert found.shape[1] == CLASSES + (name != "float32")
    for kind in ("irn", "psa"):
        network = there(built[kind], "meta")
        assert network.pyramid(pixels)[-1].shape[2:] == grid
        labels = torch.empty(2, *size, dtype=torch.uint8, device="meta")
        assert network(pixels, labels).shape == ()
