import pytest
import torch
import torchvision
from fabricated import error
from torch import nn

from ribkit.data import views
from ribkit.method.pooling import gap
from ribkit.networks import backbone
from ribkit.networks.architectures import SmallResNet
from ribkit.networks.backbone import FeaturePyramid, Network, from_classifier
from ribkit.runtime.errors import InputError


def pixels(side=64, count=1, rng_seed=0):
    return 255 * torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(rng_seed))


def randomise_statistics(model):
    """Batch norm as after a training: its statistics, scale and shift are no longer 0 and 1."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.0)
    return model.eval()


def built(name, **arguments):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(torchvision.models, name)(weights=None, **arguments)
        return randomise_statistics(model)


# ---- ResNet-50 --------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def resnet():
    """torchvision's own ResNet-50 at stride 16, and ours made from the plain one."""
    plain = built("resnet50")
    theirs = torchvision.models.resnet50(replace_stride_with_dilation=[False, False, True])
    theirs.load_state_dict(plain.state_dict())
    return theirs.eval(), from_classifier(plain), plain


@torch.no_grad()
def test_resnet50_equals_torchvisions_dilated_one_without_its_bias(resnet):
    theirs, ours, _ = resnet
    seen = pixels(80)
    normal = views.normalise(seen, *backbone.IMAGENET)
    maps = ours(seen)
    assert maps.shape == (1, 1000, 5, 5)
    assert error(gap(maps), theirs(normal) - theirs.fc.bias) < 1e-4


@torch.no_grad()
def test_resnet50_is_frozen_up_to_layer2(resnet):
    theirs, ours, _ = resnet
    x = theirs.maxpool(
        theirs.relu(theirs.bn1(theirs.conv1(views.normalise(pixels(), *backbone.IMAGENET))))
    )
    x = theirs.layer2(theirs.layer1(x))
    assert x.shape == (1, 512, 8, 8)
    assert error(ours.features(pixels()), x) < 1e-5
    learning = {name.split(".")[0] for name, p in ours.adapted.named_parameters()}
    assert learning == {"layer3", "layer4"}


def test_only_the_upper_parts_get_a_gradient(resnet):
    _, ours, _ = resnet
    assert not any(p.requires_grad for p in ours.frozen.parameters())
    assert all(p.requires_grad for p in ours.adapted.parameters())
    assert all(p.requires_grad for p in ours.classifier.parameters())
    assert not ours.features(pixels()).requires_grad
    assert ours(pixels()).requires_grad


def test_the_model_given_is_left_as_it_is(resnet):
    _, _, plain = resnet
    assert plain.layer4[0].conv2.stride == (2, 2)
    assert plain.layer4[2].conv2.dilation == (1, 1)
    assert all(p.requires_grad for p in plain.parameters())


def test_batch_norm_stays_in_evaluation_mode(resnet):
    _, ours, _ = resnet
    before = {k: v.clone() for k, v in ours.state_dict().items() if "running" in k}
    ours.train()
    assert not any(module.training for module in ours.modules())
    ours(pixels(rng_seed=1))
    assert all(torch.equal(ours.state_dict()[k], v) for k, v in before.items())


# ---- other classifiers ------------------------------------------------------------------------
@torch.no_grad()
@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5"])
def test_at_their_own_stride_other_classifiers_give_their_own_logits(name):
    model = built(name)
    ours = from_classifier(model, output_stride=32)
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    theirs = model(views.normalise(pixels(), *backbone.IMAGENET)) - linear.bias
    assert error(gap(ours(pixels())), theirs) < 1e-4


@torch.no_grad()
def test_at_half_its_stride_a_network_computes_the_stride_32_maps_and_those_between():
    model = built("mobilenet_v2")
    coarse, fine = (from_classifier(model, output_stride=s)(pixels(128)) for s in (32, 16))
    assert fine.shape[-1] == 2 * coarse.shape[-1]
    assert error(fine[..., ::2, ::2], coarse) < 1e-4


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("vgg11", "meta"),
        ("convnext_tiny", "meta"),
        ("vit_b_16", "meta"),
        ("swin_t", "cpu"),
        ("squeezenet1_1", "cpu"),
        ("mobilenet_v3_small", "cpu"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_classifiers_of_another_kind_are_refused_in_one_sentence(name, device):
    with torch.device(device):
        model = getattr(torchvision.models, name)(weights=None)
    with pytest.raises(InputError, match=type(model).__name__) as caught:
        from_classifier(model)
    message = str(caught.value)
    assert "\n" not in message
    assert "global average pooling and one linear layer" in message


class Other(nn.Module):
    """A classifier that does after its convolution what it is told."""

    def __init__(self, head):
        super().__init__()
        self.conv, self.head, self.linear = nn.Conv2d(3, 4, 8, 8), head, nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.conv(x), self.linear)


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(lambda x, linear: linear(x.amax((2, 3))), id="global maximum"),
        pytest.param(
            lambda x, linear: linear(x.mean([2, 3]).relu()), id="activation after pooling"
        ),
        pytest.param(lambda x, linear: linear(x.mean([2, 3])).softmax(1), id="softmax"),
        pytest.param(lambda x, linear: linear(x[:, :, 0, 0]), id="one position"),
        pytest.param(
            lambda x, linear: linear(x.mean([2, 3])) if x.sum() > 0 else x, id="control flow"
        ),
    ],
)
def test_a_head_that_is_no_average_and_linear_layer_is_refused(head):
    with pytest.raises(InputError, match="Other"):
        from_classifier(Other(head))


def narrow_classifier(*head):
    """Of stride 32 and two classes; then global average pooling and a linear layer, or ``head``."""
    torch.manual_seed(0)
    strided = [nn.Conv2d(3 if k == 0 else 4, 4, 3, 2, 1) for k in range(5)]
    body = [layer for conv in strided for layer in (conv, nn.ReLU())]
    return nn.Sequential(*body, *(head or (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))))


class Elsewhere(nn.Module):
    """Its parts lie on a device that takes no pixels of the CPU, as on a GPU."""

    def __init__(self):
        super().__init__()
        self.layers, self.device = narrow_classifier(), "gpu"

    def cpu(self):
        self.device = "cpu"
        return super().cpu()

    def forward(self, x):
        if self.device != "cpu":
            raise RuntimeError("Expected all tensors to be on the same device")
        return self.layers(x)


@torch.no_grad()
@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(nn.Module.half, id="half"),
        pytest.param(nn.Module.bfloat16, id="bfloat16"),
        pytest.param(nn.Module.double, id="double"),
        pytest.param(nn.DataParallel, id="DataParallel"),
        pytest.param(torch.compile, id="compiled"),
        pytest.param(lambda model: torch.compile(nn.DataParallel(model)), id="both"),
        pytest.param(torch.optim.swa_utils.AveragedModel, id="averaged"),
        pytest.param(lambda _: Elsewhere(), id="on a GPU"),
    ],
)
def test_a_classifier_is_taken_as_people_have_it(wrap):
    expected = from_classifier(narrow_classifier())(pixels())
    given = wrap(narrow_classifier())
    before = next(given.parameters()).dtype
    found = from_classifier(given)(pixels())
    assert error(found, expected) < (0.02 if before.itemsize == 2 else 1e-6)
    assert next(given.parameters()).dtype == before
    assert getattr(given, "device", "gpu") == "gpu"


@torch.no_grad()
@pytest.mark.parametrize(
    "head",
    [
        pytest.param([nn.Conv2d(4, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()], id="before"),
        pytest.param([nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 2, 1), nn.Flatten()], id="behind"),
        pytest.param([nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 2, 1)], id="with positions"),
    ],
)
def test_a_1x1_convolution_is_a_head_before_and_behind_the_pooling(head):
    model = narrow_classifier(*head)
    convolution = [m for m in model if isinstance(m, nn.Conv2d)][-1]
    theirs = model(views.normalise(pixels(), *backbone.IMAGENET)).flatten(1) - convolution.bias
    assert error(gap(from_classifier(model, output_stride=32)(pixels())), theirs) < 1e-4
    assert from_classifier(model)(pixels()).shape == (1, 2, 4, 4)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: torch.jit.script(narrow_classifier()), "one that hides its layers"),
        (lambda: torchvision.models.resnet18, "function does not suit .it is no torch.nn.Module"),
        (lambda: narrow_classifier().state_dict(), "OrderedDict does not suit .it is no torch"),
        (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), narrow_classifier()), "to have 1 channels"),
        (lambda: narrow_classifier(nn.Flatten(), nn.Linear(4, 2)), "cannot be multiplied"),
        (
            lambda: narrow_classifier(nn.Conv2d(4, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
            "no li",
        ),
    ],
    ids=["TorchScript", "not called", "weights", "grey", "other size", "ReLU"],
)
@pytest.mark.filterwarnings("ignore")
def test_the_reason_of_a_refusal_is_the_true_one(model, reason):
    with pytest.raises(InputError, match=reason) as caught:
        from_classifier(model())
    assert "ShapeProp" not in str(caught.value)
    assert "resnet50" not in str(caught.value)


# ---- strides ----------------------------------------------------------------------------------
@torch.no_grad()
def test_inception_pools_beside_its_convolutions_so_it_stays_as_coarse():
    model = randomise_statistics(torchvision.models.inception_v3(init_weights=False))
    network = from_classifier(model)
    seen = pixels(139)
    theirs = model(views.normalise(seen, *backbone.IMAGENET)) - model.fc.bias
    assert network(seen).shape == (1, 1000, 3, 3)
    assert error(gap(network(seen)), theirs) < 1e-4


class Beside(nn.Module):
    """A convolution of stride 2 and, beside it, a pooling of stride 2, as in a ResNet-D."""

    def __init__(self):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(4, 4, 3, 2, 1), nn.AvgPool2d(2)

    def forward(self, x):
        return self.conv(x) + self.pool(x)


@torch.no_grad()
def test_a_shortcut_that_pools_keeps_the_stride_of_the_convolution_beside_it():
    head = (Beside(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    model = nn.Sequential(*list(narrow_classifier())[:8], *head)
    network = from_classifier(model)
    theirs = model(views.normalise(pixels(), *backbone.IMAGENET)) - model[-1].bias
    assert network(pixels()).shape == (1, 2, 2, 2)
    assert error(gap(network(pixels())), theirs) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        {"padding": "same"},
        {"padding": 1, "padding_mode": "reflect"},
        {"padding": 2, "dilation": 2},
        {"padding": (0, 1), "kernel_size": (1, 3)},
    ],
    ids=["same", "reflect", "dilated already", "1x3"],
)
def test_what_follows_a_removed_stride_is_dilated_whatever_its_kind(options):
    conv = nn.Conv2d(4, 4, **{"kernel_size": 3} | options)
    model = narrow_classifier(
        conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    coarse, fine = (from_classifier(model, output_stride=s)(pixels(128)) for s in (32, 16))
    assert fine.shape[-1] == 2 * coarse.shape[-1]  # they are reflected at other right borders
    assert error(fine[..., :-2:2, :-2:2], coarse[..., :-1, :-1]) < 1e-4


def test_a_sequential_classifier_suits():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 8, 8), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2),
    )  # fmt: skip
    network = from_classifier(model, (0,) * 3, (255,) * 3)
    theirs = model(pixels() / 255) - model[-1].bias
    assert error(gap(network(pixels())).detach(), theirs.detach()) < 1e-5


# ---- the small network, and any other ---------------------------------------------------------
def narrow(n_classes=3):
    torch.manual_seed(0)
    model = randomise_statistics(SmallResNet(n_classes, widths=(4, 6, 8), blocks=1))
    return model, from_classifier(model, (127.5,) * 3, (64,) * 3, frozen_stride=2, output_stride=4)


@torch.no_grad()
def test_the_small_network_keeps_its_stride_of_4_and_is_frozen_up_to_stride_2():
    model, network = narrow()
    assert network(pixels(32)).shape == (1, 3, 8, 8)
    assert network.features(pixels(32)).shape[-2:] == (16, 16)
    theirs = model((pixels(32) - 127.5) / 64) - model.linear.bias
    assert error(gap(network(pixels(32))), theirs) < 1e-5


def test_a_copy_to_adapt_shares_the_frozen_part_and_owns_the_rest():
    _, network = narrow()
    copy = network.adaptable()
    assert copy.frozen is network.frozen
    assert (copy.mean, copy.std) == (network.mean, network.std)
    with torch.no_grad():
        for parameter in (*copy.adapted.parameters(), *copy.classifier.parameters()):
            parameter.add_(1.0)
    _, fresh = narrow()
    assert torch.equal(network(pixels(32)), fresh(pixels(32)))
    assert not torch.equal(copy(pixels(32)), fresh(pixels(32)))


def test_new_classes_get_a_seeded_classifier_and_leave_the_rest():
    _, network = narrow()
    other = network.with_classes(7, rng_seed=1)
    assert other(pixels(32)).shape == (1, 7, 8, 8)
    assert other.classifier.bias is None
    assert network.classifier.out_channels == 3
    weight = other.classifier.weight
    assert torch.equal(weight, network.with_classes(7, rng_seed=1).classifier.weight)
    assert not torch.equal(weight, network.with_classes(7, rng_seed=2).classifier.weight)
    many = network.with_classes(900, rng_seed=0).classifier.weight
    assert float(many.detach().std()) == pytest.approx(0.01, rel=0.1)
    for one, two in zip(other.adapted.parameters(), network.adapted.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_network_by_hand_maps_features_to_classes():
    network = Network(
        nn.Identity(), nn.Identity(), nn.Conv2d(3, 2, 1, bias=False), (1,) * 3, (2,) * 3
    )
    network.classifier.weight.data = torch.tensor([[1.0, 0, 0], [0, 1, -1]]).view(2, 3, 1, 1)
    seen = torch.tensor([3.0, 5.0, 9.0]).view(1, 3, 1, 1)
    assert network.features(seen).flatten().tolist() == [1, 2, 4]
    assert network(seen).flatten().tolist() == [1, -2]


@pytest.mark.parametrize("name", ["densenet121", "googlenet"])
def test_a_network_that_goes_on_by_pooling_stays_as_coarse_and_undilated(name):
    options = {"init_weights": False} if name == "googlenet" else {}
    model = getattr(torchvision.models, name)(weights=None, **options)
    network = from_classifier(model)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert all(convolution.dilation == (1, 1) for convolution in convolutions)
    assert network(torch.zeros(1, 3, 128, 128)).shape[-1] == 4


def test_an_error_without_words_is_told_in_words():
    class Silent(nn.Module):
        def forward(self, x):
            raise NotImplementedError

    with pytest.raises(InputError, match=r"Silent does not suit \(NotImplementedError\)"):
        from_classifier(Silent())


# ---- levels -----------------------------------------------------------------------------------
@torch.no_grad()
def test_levels_of_a_resnet_are_those_after_its_pooling_and_its_stages(resnet):
    theirs, ours, _ = resnet
    levels = FeaturePyramid(ours)
    assert levels.strides == [4, 4, 8, 16, 16]
    assert levels.channels == [64, 256, 512, 1024, 2048]
    x = theirs.maxpool(
        theirs.relu(theirs.bn1(theirs.conv1(views.normalise(pixels(), *backbone.IMAGENET))))
    )
    for found, stage in zip(levels(pixels()), (None, 1, 2, 3, 4), strict=True):
        x = x if stage is None else getattr(theirs, f"layer{stage}")(x)
        assert error(found, x) < 1e-4


@torch.no_grad()
def test_levels_of_the_small_network_end_with_its_features():
    _, network = narrow()
    levels = FeaturePyramid(network)
    assert (levels.strides, levels.channels) == ([2, 4, 4], [4, 6, 8])
    found = levels(pixels(32))
    assert torch.equal(found[0], network.features(pixels(32)))
    assert torch.equal(found[-1], network.adapted(network.features(pixels(32))))
    levels.train()
    assert not any(module.training for module in levels.modules())
