import operator
import re
from collections.abc import Iterator

import pytest
import thop
import torch
from spikingjelly.activation_based import functional, neuron
from torch import Tensor, fx, nn

from kdsnn.deploy import catalogs
from kdsnn.errors import KdsnnError
from kdsnn.models import MODELS, Network, build, stage_taps
from tests.kdsnn.stages import stage_features


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On tiny images, threads that wait for one another cost far more than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


CNN2 = {"channels": (6, 8), "hidden": 16}


def small(name: str, *, spiking: bool, **more: object) -> Network:
    """The architecture at its true depth and width (cnn2: narrow), on the smallest sensible image."""
    torch.manual_seed(0)
    size = max(8, MODELS[name].min_size)
    options = {"input_shape": (1, size, size), "classes": 7, **(CNN2 if name == "cnn2" else {}), **more}
    return build(name, spiking=spiking, **options)


def pixels(*shape: int) -> Tensor:
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(1)) / 256


def images(name: str, n: int = 2) -> Tensor:
    size = max(8, MODELS[name].min_size)
    return pixels(n, 1, size, size)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


every_model = pytest.mark.parametrize("name", MODELS)


@pytest.mark.parametrize(
    ("name", "input_shape", "params", "flops"),
    [  # KDSNN Table 3 prints 11.17M/457.72M, 557.88M, 849.33M, 368.74M, …; to the digit in facts/kdsnn.md
        ("resnet18", (1, 28, 28), 11_172_810, 457_720_832),
        ("resnet18", (3, 32, 32), 11_173_962, 557_880_320),
        ("wrn28-4", (3, 32, 32), 5_849_050, 849_332_736),
        ("pyramidnet18", (3, 32, 32), 1_558_881, 368_742_562),
        ("preresnet20", (3, 32, 32), 272_282, 41_566_848),
        ("cnn2", (1, 28, 28), 7_385_984, 37_543_168),
        ("vgg11", (3, 32, 32), 9_752_640, 153_900_032),
        ("vgg16", (3, 32, 32), 15_248_320, 314_831_872),
        ("wrn16-2", (3, 32, 32), 691_674, 102_089_984),
        ("resnet14", (3, 32, 32), 175_258, 27_230_848),
        ("resnet19", (3, 32, 32), 12_697_994, 2_291_534_336),
    ],
)
def test_parameters_and_thop_flops_are_the_papers(
    name: str, input_shape: tuple[int, int, int], params: int, flops: int
) -> None:
    ann = build(name, spiking=False, input_shape=input_shape, classes=10).eval()
    assert parameters(ann) == params
    assert thop.profile(ann, (torch.zeros(1, *input_shape),), verbose=False)[0] == flops
    assert parameters(build(name, spiking=True, input_shape=input_shape, classes=10)) == params


@every_model
@pytest.mark.parametrize("input_shape", [(1, 28, 28), (3, 32, 32)])
def test_every_model_takes_mnist_and_cifar_shapes(name: str, input_shape: tuple[int, int, int]) -> None:
    ann = build(name, spiking=False, input_shape=input_shape, classes=3).eval()
    with torch.no_grad():
        assert ann(torch.zeros(1, *input_shape)).shape == (1, 3)


@every_model
def test_ann_and_snn_share_their_parameters(name: str) -> None:
    ann, snn = small(name, spiking=False), small(name, spiking=True)
    of_snn = snn.state_dict()
    for key, value in ann.state_dict().items():
        assert torch.equal(value, of_snn[key]), f"{key}: the same seed must give the same weights"
    snn.load_state_dict(ann.state_dict())
    assert ann(images(name)).shape == (2, 7)


@every_model
@pytest.mark.parametrize("readout", ["rate", "voting", "membrane"])
def test_snn_fires_and_learns(name: str, readout: str) -> None:
    snn = small(name, spiking=True, readout=readout)
    values: list[Tensor] = []
    for module in snn.modules():
        if isinstance(module, neuron.BaseNode):
            module.register_forward_hook(lambda module, args, spikes: values.append(spikes.detach().unique()))
    out = snn(images(name).expand(2, 2, *images(name).shape[1:]))
    assert out.shape == (2, 2, 7)
    assert set(torch.cat(values).tolist()) == {0.0, 1.0}
    if readout == "membrane":
        assert not set(out.unique().tolist()) <= {0.0, 1.0}
    out.mean(0).square().sum().add(out.sum()).backward()
    for key, parameter in snn.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


def test_neurons() -> None:
    nodes = {kind: small("cnn2", spiking=True, neuron=kind).get_submodule("body.stage1.act1") for kind in ("if", "lif")}
    assert type(nodes["if"]) is neuron.IFNode
    for node in nodes.values():
        assert (node.v_threshold, node.v_reset, node.detach_reset, node.step_mode) == (1.0, 0.0, True, "m")
    assert nodes["lif"](torch.full((3, 1), 0.6)).flatten().tolist() == [0, 0, 1]  # 0.6, 0.9, 1.05
    soft = small("cnn2", spiking=True, reset="soft").get_submodule("body.stage1.act1")
    assert soft(torch.full((5, 1), 0.6)).flatten().tolist() == [0, 1, 0, 1, 1]  # 0.6, 1.2, 0.8, 1.4, 1.0


@every_model
def test_static_images_give_what_the_repeated_sequence_gives(name: str) -> None:
    T = 3
    snn = small(name, spiking=True, readout="membrane").eval()
    with torch.no_grad():
        for module in snn.stem.modules():  # exact sums: the size of the batch cannot change their rounding
            if isinstance(module, nn.Conv2d):
                module.weight.mul_(256).round_().div_(256)
        x = images(name)
        seen: list[Tensor] = []
        hook = snn.stem.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        static = snn.forward_static(x, T)
        hook.remove()
        functional.reset_net(snn)
        repeated = snn(x.expand(T, *x.shape))
    assert [s.shape for s in seen] == [(1, *x.shape)], "the stem must run once"
    assert torch.equal(static, repeated)


def test_static_images_leave_the_same_statistics_in_the_stem() -> None:
    T, x = 4, pixels(3, 1, 8, 8)
    once, repeated = small("resnet14", spiking=True), small("resnet14", spiking=True)
    once.forward_static(x, T)
    repeated(x.expand(T, *x.shape))
    a, b = once.get_submodule("stem.bn"), repeated.get_submodule("stem.bn")
    torch.testing.assert_close(a.running_mean, b.running_mean)
    n = x.numel()
    biased = [(bn.running_var - 0.9) * (m - 1) / m for bn, m in ((a, n), (b, T * n))]
    torch.testing.assert_close(*biased)


@every_model
def test_snn_traces_to_module_calls_and_additions(name: str) -> None:
    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return m.__module__.startswith("spikingjelly") or super().is_leaf_module(m, module_qualified_name)

    snn = small(name, spiking=True).eval()
    graph = Tracer().trace(snn)
    for node in graph.nodes:
        assert node.op in ("placeholder", "call_module", "output") or node.target is operator.add, node
    x = images(name).expand(2, 2, *images(name).shape[1:])
    with torch.no_grad():
        expected = snn(x)
        functional.reset_net(snn)
        assert torch.equal(fx.GraphModule(snn, graph)(x), expected)


@every_model
def test_taps(name: str) -> None:
    ann, snn = small(name, spiking=False), small(name, spiking=True)
    x = images(name)
    with stage_features(ann) as before_relu:
        ann(x)
    with stage_features(snn) as rates:
        snn.forward_static(x, 4)
    assert len(before_relu) == len(rates) == len(stage_taps(ann)) == len(stage_taps(snn))
    for network, features in ((ann, before_relu), (snn, rates)):
        for tap, feature in zip(stage_taps(network), features, strict=True):
            assert feature.shape[:2] == (2, tap.channels)
            bn = network.get_submodule(tap.bn)
            assert isinstance(bn, nn.BatchNorm2d)
            assert bn.num_features == tap.channels
    for feature, rate in zip(before_relu, rates, strict=True):
        assert feature.shape == rate.shape
        assert feature.min() < 0
        assert set((rate * 4).unique().tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0}
    torch.stack([rate.sum() for rate in rates]).sum().backward()
    for parameter in snn.stem.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    ann(x)
    assert len(before_relu) == len(stage_taps(ann)), "nothing is recorded once the context is closed"


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("pyramidnet18", (31, 46, 61)),  # facts/kdsnn.md, section 2: bn1 of the next stage, not its bn2
        ("wrn16-2", (32, 64, 128)),
        ("wrn28-4", (64, 128, 256)),
        ("preresnet20", (16, 32, 64)),
        ("resnet18", (64, 128, 256, 512)),
        ("vgg11", (64, 128, 256, 512, 512)),
        ("cnn2", (6, 8)),
    ],
)
def test_tap_channels_are_the_stage_widths(name: str, channels: tuple[int, ...]) -> None:
    for spiking in (False, True):
        assert tuple(tap.channels for tap in stage_taps(small(name, spiking=spiking))) == channels


@pytest.mark.parametrize("name", ["preresnet20", "pyramidnet18", "vgg11"])
def test_teacher_feature_is_the_output_of_its_batchnorm(name: str) -> None:
    ann = small(name, spiking=False)
    outputs: list[Tensor] = []
    for tap in stage_taps(ann):
        ann.get_submodule(tap.bn).register_forward_hook(lambda module, args, out: outputs.append(out))
    with stage_features(ann) as features:
        ann(images(name))
    for feature, output in zip(features, outputs, strict=True):
        assert torch.equal(feature, output)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("ResNet-18", {}, "did you mean resnet18"),
        ("transformer", {}, "choose from cnn2, vgg11"),
        ("resnet18", {"input_shape": (3, 4, 4)}, "images of 4×4 are too small, it needs at least 8×8"),
        ("vgg11", {"input_shape": (1, 8, 8)}, "needs at least 16×16"),
        ("pyramidnet18", {"input_shape": (3, 30, 30)}, "not divisible by 4"),
        ("cnn2", {"width": 3}, "has no option 'width'; it has channels, hidden"),
        ("cnn2", {"channels": (8, 8, 8)}, "it must be 2 whole numbers"),
        ("cnn2", {"channels": (8, 0)}, "at least 1"),
        ("cnn2", {"hidden": 1.5}, "whole number"),
        ("cnn2", {"classes": 0}, "number of classes is 0"),
        ("cnn2", {"input_shape": (28, 28)}, "input shape"),
        ("cnn2", {"readout": "spikes"}, "choose rate, voting or membrane"),
        ("cnn2", {"neuron": "izhikevich"}, "choose if or lif"),
        ("cnn2", {"reset": "half"}, "choose hard or soft"),
    ],
)
def test_errors_are_one_readable_sentence(name: str, arguments: dict[str, object], message: str) -> None:
    given = {"spiking": True, "input_shape": (1, 28, 28), "classes": 10, **arguments}
    with pytest.raises(KdsnnError, match=re.escape(message)) as error:
        build(name, **given)
    assert "\n" not in str(error.value)


def test_options_may_come_from_json() -> None:
    cnn2 = build("cnn2", spiking=True, input_shape=[1, 8, 8], classes=10, channels=[4, 8], hidden=16)
    assert stage_taps(cnn2) == stage_taps(small("cnn2", spiking=True, channels=(4, 8)))


def test_cnn_dvs_has_the_convolutions_of_spikingjellys_network_for_gestures() -> None:
    from spikingjelly.activation_based import neuron
    from spikingjelly.activation_based.model import parametric_lif_net

    theirs = parametric_lif_net.DVSGestureNet(channels=128, spiking_neuron=neuron.IFNode)
    ours = build("cnn-dvs", spiking=True, input_shape=(2, 128, 128), classes=11, readout="voting")

    def maps(network: nn.Module) -> list[tuple[int, ...]]:
        kinds = nn.Conv2d | nn.BatchNorm2d
        return [tuple(p.shape) for m in network.modules() if isinstance(m, kinds) for p in m.parameters()]

    assert maps(ours) == maps(theirs)
    hidden = [m for m in ours.modules() if isinstance(m, nn.Linear)]
    assert (hidden[0].in_features, hidden[0].out_features) == (128 * 4 * 4, 512)
    assert hidden[1].out_features == 11 * 8


def counted(name: str, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Parameters and thop's FLOPs as `list` prints them: worked out from the shapes, without thop and without a number."""
    total = 0

    def normalize(module: nn.BatchNorm2d, x: Tensor) -> Tensor:  # torch's own takes most of the time on the meta device
        nonlocal total
        total += 4 * x[0].numel()
        return x

    def count(module: nn.Module, args: tuple[Tensor], out: Tensor) -> None:
        nonlocal total
        total += out[0].numel() * (1 if isinstance(module, nn.AvgPool2d) else module.weight[0].numel())

    with monkeypatch.context() as patched:
        patched.setattr(nn.BatchNorm2d, "forward", normalize)
        with torch.device("meta"):
            ann = build(name, spiking=False, input_shape=shape, classes=10).eval()
            for module in ann.modules():
                if isinstance(module, nn.Conv2d | nn.Linear | nn.AvgPool2d):
                    module.register_forward_hook(count)
            ann(torch.zeros(1, *shape))
    return f"{parameters(ann):,}", f"{total / 1e6:.2f} M"


def test_list_models_says_what_each_architecture_is(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {row["model"]: row for row in catalogs.models()}
    advice = "catalog.json is out of date: python -m kdsnn.deploy.catalogs"
    assert list(rows) == list(MODELS), advice
    for name, row in rows.items():
        assert row["description"] == MODELS[name].description, advice
        assert row["options"] == ", ".join(f"{key}={value}" for key, value in MODELS[name].options.items()), advice
        for data, shape in (("MNIST", (1, 28, 28)), ("CIFAR", (3, 32, 32))):
            assert (row[f"parameters, {data}"], row[f"FLOPs, {data}"]) == counted(name, shape, monkeypatch), advice


def test_list_recipes_says_what_training_takes() -> None:
    assert catalogs.recipes() == catalogs.stated_recipes(), (
        "recipes.json is out of date: python -m kdsnn.deploy.catalogs"
    )


@pytest.mark.parametrize("name", ["resnet14"])
def test_the_row_of_a_model_is_what_thop_counts(name: str) -> None:
    rows = {row["model"]: row for row in catalogs.models()}
    assert catalogs.counted_model(name) == rows[name]
