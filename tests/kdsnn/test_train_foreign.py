"""Students and teachers that are nobody's here: how they are called, what they learn from, and that they come back."""

import copy
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn
from torch.utils.data import TensorDataset

from kdsnn import checkpoint
from kdsnn.checkpoint import CheckpointInfo, model_text
from kdsnn.data import as_data
from kdsnn.errors import KdsnnError
from kdsnn.factory import is_factory, made_by
from kdsnn.models import build
from kdsnn.train import RunFiles, TrainConfig, distill, evaluate, pretrain
from kdsnn.train.calling import CallingConvention, convention_of
from kdsnn.train.fast_neurons import fused
from kdsnn.train.features import feature_pairs, margins, parse_taps
from kdsnn.train.grid import quantized
from kdsnn.train.learner import Learner, laid_out

SHAPE, T = (1, 8, 8), 4
CONFIG = TrainConfig(epochs=2, batch_size=16, lr=0.05, warmup_epochs=0, T=T)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data():
    """Four classes, a bright quadrant in noise, as a plain torch data set."""
    rng = np.random.default_rng(0)
    labels = np.arange(96) % 4
    images = rng.integers(0, 120, (96, *SHAPE))
    for image, label in zip(images, labels, strict=True):
        row, column = 4 * (label // 2), 4 * (label % 2)
        image[0, row : row + 4, column : column + 4] += 100
    return as_data(TensorDataset(torch.from_numpy(images).float() / 255, torch.from_numpy(labels)), name="quadrants")


def act(mode):
    return neuron.IFNode(surrogate_function=surrogate.ATan(), detach_reset=True, step_mode=mode)


def layers(mode, seed=0):
    """A plain network of SpikingJelly's layers."""
    torch.manual_seed(seed)
    return nn.Sequential(
        layer.Conv2d(1, 8, 3, padding=1, bias=False, step_mode=mode),
        layer.BatchNorm2d(8, step_mode=mode),
        act(mode),
        layer.MaxPool2d(2, step_mode=mode),
        layer.Flatten(step_mode=mode),
        layer.Linear(128, 4, step_mode=mode),
    )


class Wrapped(nn.Module):
    """The same layers under another convention."""

    def __init__(self, mode="m", **changes) -> None:
        super().__init__()
        self.net = layers(mode)
        self.steps = T
        self.__dict__.update(changes)


class FramesMean(Wrapped):
    def forward(self, x):
        return self.net(x).mean(0)


class FramesLoop(Wrapped):
    def forward(self, x):
        return torch.stack([self.net(frame) for frame in x])


class Repeats(Wrapped):
    def forward(self, x):
        return self.net(x.unsqueeze(0).expand(self.steps, *x.shape))


class RepeatsMean(Wrapped):
    def forward(self, x):
        return self.net(x.unsqueeze(0).expand(self.steps, *x.shape)).mean(0)


class LoopMean(Wrapped):
    def forward(self, x):
        total = 0
        for _ in range(self.steps):
            total = total + self.net(x)
        return total / self.steps


class LoopSteps(Wrapped):
    def forward(self, x):
        return torch.stack([self.net(x) for _ in range(self.steps)])


class StaticStem(nn.Module):
    """Computes the first layer once for all steps, as many published networks do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.body = layers("m")[2:]

    def forward(self, x):
        return self.body(self.bn(self.conv(x)).unsqueeze(0).repeat(T, 1, 1, 1, 1))


CONVENTIONS = {
    "multi-step": (lambda: layers("m"), CallingConvention("multi-step")),
    "single-step": (lambda: layers("s"), CallingConvention("single-step")),
    "frames to their mean": (FramesMean, CallingConvention("multi-step", averaged=True)),
    "loop over frames": (lambda: FramesLoop("s"), CallingConvention("multi-step")),
    "repeats": (Repeats, CallingConvention("own steps")),
    "repeats to the mean": (RepeatsMean, CallingConvention("own steps", averaged=True)),
    "loop to the mean": (lambda: LoopMean("s"), CallingConvention("own steps", averaged=True)),
    "loop to all steps": (lambda: LoopSteps("s"), CallingConvention("own steps")),
    "static stem": (StaticStem, CallingConvention("own steps")),
}


def teacher(seed=1):
    """A plain torch CNN, which takes views of its maps as such code does and changes them in place."""

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn, self.relu = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True)
            self.fc = nn.Linear(6 * 36, 4)

        def forward(self, x):
            x = self.relu(self.bn(self.conv(x)))
            return self.fc(x.view(x.size(0), -1))

    torch.manual_seed(seed)
    return Plain()


TAPS = {"multi-step": "2=bn", "single-step": "2=bn", "static stem": "body.2=bn"}


def reference(x):
    """The outputs of the plain network, (T, N, 4), however it is called."""
    network = layers("m").eval()
    with torch.no_grad():
        return network(x.unsqueeze(0).repeat(T, 1, 1, 1, 1))


@pytest.mark.parametrize("kind", CONVENTIONS)
def test_every_way_of_being_called_is_found_and_gives_the_same_outputs(kind):
    made, expected = CONVENTIONS[kind]
    module = made()
    state = copy.deepcopy(module.state_dict())
    torch.manual_seed(7)
    for steps in (1, 2, T) if kind in ("multi-step", "single-step") else (T,):
        assert convention_of(module, SHAPE, steps) == expected
    assert torch.equal(torch.rand(1), torch.manual_seed(7) and torch.rand(1))  # no random number was used up
    assert module.training and all(torch.equal(state[k], v) for k, v in module.state_dict().items())
    x = torch.rand(5, *SHAPE)
    with torch.no_grad():
        found = expected.run(module.eval(), x, T)
    whole = reference(x)
    torch.testing.assert_close(found, whole.mean(0, keepdim=True) if expected.averaged else whole)


def test_a_convention_says_what_it_is():
    assert (
        str(CallingConvention("single-step"))
        == "single-step: takes the image in T calls with (N, C, H, W) and returns (T, N, K)"
    )


@pytest.mark.parametrize(
    ("made", "tried"),
    [
        (lambda: layers("m")[:4], r"multi-step: it returns \(4, 2, 8, 4, 4\)"),
        (lambda: Repeats(steps=3), r"own steps: it lets the neuron layer 'net\.2' see 3 steps"),
        (lambda: LoopMean("s", steps=8), "own steps: it lets the neuron layer 'net.2' see 8 steps"),
        # a neuron in single-step mode among multi-step layers takes all frames for one
        (lambda: nn.Sequential(*layers("m")[:2], act("s"), *layers("m")[3:]), "neuron layer '2' see 1 steps"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), "no neurons of SpikingJelly"),
        (lambda: nn.Sequential(layer.Conv2d(3, 4, 3), act("s")), "single-step: it raises RuntimeError"),
    ],
)
def test_a_student_that_cannot_be_called_is_refused_in_one_line(data, made, tried):
    with pytest.raises(KdsnnError, match=tried) as caught:
        distill(made(), data, CONFIG, method="none")
    assert "\n" not in str(caught.value) and "Tried were" in str(caught.value)


@pytest.mark.parametrize("method", ["response", "feature", "temporal"])
@pytest.mark.parametrize("kind", CONVENTIONS)
def test_any_student_learns_from_any_teacher(data, kind, method):
    module = CONVENTIONS[kind][0]()
    taps = parse_taps(TAPS.get(kind, "net.2=bn")) if method == "feature" else ()
    ann, untouched = teacher(), teacher()
    history = distill(module, data, CONFIG, method=method, teacher=ann, taps=taps).history
    assert history[-1].loss < history[0].loss and math.isfinite(history[-1].loss)
    assert len(history[-1].by_step) == (1 if CONVENTIONS[kind][1].averaged else T)
    assert history[-1].by_step == evaluate(module, data, T=T)
    assert all(
        torch.equal(a, b) for a, b in zip(ann.state_dict().values(), untouched.state_dict().values(), strict=True)
    )
    assert module.state_dict().keys() == CONVENTIONS[kind][0]().state_dict().keys()  # no regressor stays behind


def test_a_teacher_that_is_trained_teaches(data):
    ann = pretrain(teacher(), data, replace(CONFIG, epochs=6))
    assert ann.history[-1].accuracy > 0.8
    students = [layers("m"), layers("s")]
    config = replace(CONFIG, epochs=6, T=2)
    for student in students:
        assert distill(student, data, config, method="response", teacher=ann.module).history[-1].accuracy > 0.8
    # the same network, called in two ways, is trained to the same weights but for the order of sums
    for a, b in zip(students[0].parameters(), students[1].parameters(), strict=True):
        assert a.shape == b.shape


# -- features ----------------------------------------------------------------------------------------


def test_the_loss_with_taps_is_the_papers_by_hand(data):
    """One step of one epoch, from the features of both networks, taken without the trainer."""
    ann, config = teacher().eval(), replace(CONFIG, epochs=1, batch_size=len(data.y_train), feature_weight=0.01, T=2)
    nn.init.uniform_(ann.bn.bias, -1, 1)
    loss = distill(layers("s"), data, config, method="feature", teacher=ann, taps=[("2", "bn")]).history[0].loss
    x, y = torch.from_numpy(data.x_train) / 255, torch.from_numpy(data.y_train)
    twin, spikes, outputs = layers("s"), [], []
    twin[2].register_forward_hook(lambda module, args, output: spikes.append(output))
    with torch.no_grad():
        outputs = [twin(x) for _ in range(2)]
        t = torch.maximum(ann.bn(ann.conv(x)), margins(ann.bn)[:, None, None])
        torch.manual_seed(config.seed)
        conv = nn.Conv2d(8, 6, 1, bias=False)
        nn.init.normal_(conv.weight, 0.0, math.sqrt(2 / 6))
        s = nn.BatchNorm2d(6)(conv(torch.stack(spikes).mean(0)))
        s = nn.functional.adaptive_avg_pool2d(s, t.shape[-2:])
        expected = nn.functional.cross_entropy(torch.stack(outputs).mean(0), y)
        expected += 0.01 * (((t - s) ** 2) * ~((s <= t) & (t <= 0))).sum() / len(x)
    assert loss == pytest.approx(expected.item(), rel=1e-4)


def test_margin_channels_and_calls_are_found():
    (pair,) = feature_pairs(teacher(), layers("s"), [("2", "bn")], CallingConvention("single-step"), SHAPE, T)
    assert (pair.teacher.bn, pair.teacher.channels, pair.student.channels, pair.by_call) == ("bn", 6, 8, True)
    (pair,) = feature_pairs(teacher(), layers("m"), [("2", "relu")], CallingConvention("multi-step"), SHAPE, T)
    assert (pair.teacher.bn, pair.teacher.channels, pair.by_call) == (None, 6, False)
    (pair,) = feature_pairs(teacher(), layers("m"), [("2", "fc")], CallingConvention("multi-step"), SHAPE, T)
    assert pair.teacher.channels == 4  # a linear layer's values are maps of one pixel


def test_taps_work_between_our_own_networks_too(data):
    def ours(spiking):
        torch.manual_seed(0)
        return build("cnn2", spiking=spiking, input_shape=SHAPE, classes=4, channels=(4, 8), hidden=8)

    taps = parse_taps("body.stage1.act1=stem.bn, body.stage2.act1=body.stage2.bn1")
    own = distill(ours(True), data, CONFIG, method="feature", teacher=ours(False))
    named = distill(ours(True), data, CONFIG, method="feature", teacher=ours(False), taps=taps)
    # what enters the ReLU is what the BatchNorm gives
    assert [r.loss for r in named.history] == pytest.approx([r.loss for r in own.history], rel=1e-4)


def test_taps_are_read_from_text():
    assert parse_taps("a.b=c, d = e.0 ") == (("a.b", "c"), ("d", "e.0"))
    for wrong in ("", "a", "a=", "=b", "a=b,", "a=b=c"):
        with pytest.raises(KdsnnError, match=r"must read student\.layer=teacher\.layer,…") as caught:
            parse_taps(wrong)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("taps", "message"),
    [
        ((), r"give taps, .*'2=bn'.*in the student 2; in the teacher bn\."),
        ((("act", "bn"),), "The student has no layer 'act': choose one such as 2"),
        ((("2", "bm"),), "The teacher has no layer 'bm': choose one such as bn"),
        ((("2", "never"),), "The teacher's layer 'never' gives 0 tensors"),
        ((("never", "bn"),), "The student's layer 'never' gives nothing in 0 calls"),
        ((("wrong", "bn"),), "taps name layers of neurons"),
    ],
)
def test_features_that_do_not_exist_are_named(data, taps, message):
    ann, student = teacher(), layers("m")
    ann.never = nn.Identity()
    student.add_module("wrong", nn.Flatten(0, 1))
    student.forward = lambda x: [student.wrong(x), nn.Sequential.forward(student[:6], x)][1]
    student.add_module("never", nn.Identity())
    with pytest.raises(KdsnnError, match=message) as caught:
        distill(student, data, CONFIG, method="feature", teacher=ann, taps=taps)
    assert "\n" not in str(caught.value)


def test_a_run_with_other_taps_is_not_resumed(data, tmp_path):
    files = RunFiles(tmp_path / "state", every_seconds=0, resume=True)

    def run(*taps):
        return distill(layers("m"), data, CONFIG, method="feature", teacher=teacher(), taps=taps, files=files)

    first = run(("2", "bn"))
    assert run(("2", "bn")).history == first.history
    with pytest.raises(KdsnnError, match="taps was"):
        run(("2", "conv"))


def test_what_no_teacher_can_be(data):
    with pytest.raises(KdsnnError, match="The teacher has neurons"):
        distill(layers("m"), data, CONFIG, method="response", teacher=layers("s"))
    with pytest.raises(KdsnnError, match="Taps are for method feature"):
        distill(layers("m"), data, CONFIG, method="response", teacher=teacher(), taps=[("2", "bn")])
    with pytest.raises(KdsnnError, match=r"returns \(2, 1, 8, 8\) for two images"):
        distill(layers("m"), data, CONFIG, method="response", teacher=nn.Conv2d(1, 1, 1))
    with pytest.raises(KdsnnError, match="6 classes and quadrants has 4"):
        pretrain(nn.Sequential(nn.Flatten(), nn.Linear(64, 6)), data, CONFIG)


def test_only_our_own_networks_are_laid_out_anew():
    """A foreign module may take views of its maps, which another layout refuses."""
    network = build("resnet14", spiking=True, input_shape=SHAPE, classes=4, stem=4, widths=(4, 16, 16))
    for whole in (network, Learner(network, T)):
        laid_out(whole, torch.channels_last)
        assert not network.body.stage2[0].conv1.weight.is_contiguous()
        laid_out(whole, torch.contiguous_format)
    foreign = layers("m")
    laid_out(foreign, torch.channels_last)
    assert foreign[0].weight.is_contiguous()


# -- neurons -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("leaky", [False, True])
def test_fused_neurons_keep_their_membranes_for_a_module_that_looks(leaky):
    """Read after the spikes, with gradients, and called a second time: as without fusing."""
    kinds = {"surrogate_function": surrogate.ATan(), "detach_reset": True, "step_mode": "m"}
    found = []
    for fast in (False, True):
        node = neuron.LIFNode(tau=2.0, decay_input=False, **kinds) if leaky else neuron.IFNode(**kinds)
        x = torch.rand(5, 3, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
        with fused(nn.ModuleList([node])) if fast else torch.enable_grad():
            first = node(x)
            v = node.v
            second = node(0.7 * x)
            (first.square().sum() + 3 * v.sum() + (second * node.v).sum()).backward()
        found.append((first, v, second, node.v, x.grad))
        assert 0 < first.mean() < 1 and "forward" not in vars(node)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_fused_leaves_alone_what_it_does_not_know():
    patched = act("m")
    patched.forward = lambda x: 2 * x
    started = act("m")
    started.v = 0.75
    x = torch.full((2, 1), 0.5)
    with fused(nn.ModuleList([patched, started])):
        assert patched(x).tolist() == [[1.0], [1.0]]
        assert started(x).tolist() == [[1.0], [0.0]]
        assert act("m").double()(x.double()).dtype == torch.float64
    assert patched(x).tolist() == [[1.0], [1.0]]  # its own forward is still there


def test_membrane_readout_of_a_foreign_module(data):
    class ReadsMembrane(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.out = layers("m"), act("m")
            self.out.v_threshold = 1e6

        def forward(self, x):
            self.out(self.net(x))
            return self.out.v / len(x)

    module = ReadsMembrane()
    assert convention_of(module, SHAPE, T) == CallingConvention("multi-step", averaged=True)
    history = distill(module, data, CONFIG, method="none").history
    assert history[-1].loss < history[0].loss
    slow = ReadsMembrane()
    slow.out.store_v_seq = True  # which fusing leaves alone
    assert [r.loss for r in distill(slow, data, CONFIG, method="none").history] == pytest.approx(
        [r.loss for r in history], rel=1e-5
    )


# -- checkpoints -------------------------------------------------------------------------------------


def info_of(module, data, factory=None, **changes):
    accuracy = evaluate(module, data, T=T)[-1]
    return CheckpointInfo(
        model_text(module, factory), True, SHAPE, 4, data.name, T=T, metrics={"test_accuracy": accuracy}, **changes
    )


def test_a_module_comes_back_into_one_that_the_caller_gives(data, tmp_path):
    module = distill(layers("m"), data, CONFIG, method="none").module
    info = info_of(module, data)
    assert info.model == "a torch module (Sequential)"
    checkpoint.save(tmp_path / "student.safetensors", module, info)
    with pytest.raises(KdsnnError, match=r"cannot be built: .*give the module itself, .*load\(path, module=…\)"):
        checkpoint.load(tmp_path / "student.safetensors")
    given = layers("m", seed=5)
    loaded, read = checkpoint.load(tmp_path / "student.safetensors", module=given)
    assert loaded is given and read == info == checkpoint.read_info(tmp_path / "student.safetensors")
    assert not loaded.training and evaluate(loaded, data, T=T)[-1] == info.metrics["test_accuracy"]
    with pytest.raises(
        KdsnnError, match="weights do not fit the network that is given, they are those of 'a torch module"
    ):
        checkpoint.load(tmp_path / "student.safetensors", module=layers("m")[:3])


def test_a_checkpoint_names_its_factory_and_never_runs_it(data, tmp_path, monkeypatch):
    (tmp_path / "mynets.py").write_text(
        "from torch import nn\nfrom spikingjelly.activation_based import layer, neuron\n"
        "def student():\n    print('building')\n"
        "    return nn.Sequential(layer.Flatten(), layer.Linear(64, 4), neuron.IFNode())\n"
        "def other(): return 7\n"
    )
    monkeypatch.chdir(tmp_path)
    module = made_by("mynets:student")
    info = info_of(module, data, "mynets:student")
    checkpoint.save("student.safetensors", module, info)
    with pytest.raises(KdsnnError, match="give mynets:student as the network and this file as its weights") as caught:
        checkpoint.load("student.safetensors")
    assert "\n" not in str(caught.value)
    loaded, read = checkpoint.load("student.safetensors", module=made_by("mynets:student"))
    assert read.model == "mynets:student" and read.readout is None and type(loaded) is nn.Sequential
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), module.parameters(), strict=True))


def test_factories_that_make_nothing(tmp_path, monkeypatch, capsys):
    (tmp_path / "mynets2.py").write_text("def other(): return 7\ndef leaves(): raise SystemExit('bye')\n")
    monkeypatch.chdir(tmp_path)
    for factory, message in {
        "mynets2:other": "it returned a int",
        "mynets2:none": "cannot be built .*no attribute 'none'",
        "mynets2:leaves": r"cannot be built \(SystemExit: bye\)",
        "nowhere:student": r"cannot be built \(ModuleNotFoundError: No module named",
    }.items():
        assert is_factory(factory)
        with pytest.raises(KdsnnError, match=f"^{factory}: {message}") as caught:
            made_by(factory)
        assert "\n" not in str(caught.value)
    assert "" not in sys.path and not is_factory("student.safetensors") and not is_factory("a:b.c")


def test_tensors_with_two_names_and_state_that_is_no_tensor(data, tmp_path):
    module = layers("m")
    module.add_module("tied", layer.Linear(128, 4, step_mode="m"))
    module.tied.weight = module[5].weight
    info = info_of(module[:6], data)
    checkpoint.save(tmp_path / "tied", module, info)
    fresh = layers("m", seed=3)
    fresh.add_module("tied", layer.Linear(128, 4, step_mode="m"))
    fresh.tied.weight = fresh[5].weight
    checkpoint.load(tmp_path / "tied", module=fresh)
    assert torch.equal(fresh[5].weight, module[5].weight) and fresh.tied.weight is fresh[5].weight

    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"a": 1}

    with pytest.raises(KdsnnError, match="'_extra_state' in the module's state is a dict"):
        checkpoint.save(tmp_path / "extra", Extra(2, 2), info)


def test_a_quantized_foreign_student_needs_no_factory(data, tmp_path):
    student = distill(layers("m"), data, CONFIG, method="none").module
    trained = distill(quantized(student, SHAPE, T, 4), data, replace(CONFIG, lr=0.01), method="none").module
    deployed = trained.deployed().eval()
    info = info_of(deployed, data, quantized={"bits": 4, "layers": deployed.description()})
    checkpoint.save(tmp_path / "q.safetensors", deployed, info)
    loaded, read = checkpoint.load(tmp_path / "q.safetensors")
    assert read == info and evaluate(loaded, data, T=T)[-1] == info.metrics["test_accuracy"]
    functional.reset_net(deployed)
    x = torch.rand(3, *SHAPE)
    with torch.no_grad():
        assert torch.equal(loaded.forward_static(x, T), deployed.forward_static(x, T))
