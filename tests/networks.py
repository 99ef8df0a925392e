"""Random spiking networks for the property-based tests: SpikingJelly modules, and integer graphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import hypothesis.strategies as st
import numpy as np
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from exporters.graph import (
    IF,
    LIF,
    AvgPool2d,
    Conv2d,
    Delay,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Node,
    Output,
    SpikingGraph,
    chain,
    window_positions,
)


@dataclass
class Case:
    """A module in eval mode, float64, with the shape and time steps it takes."""

    module: nn.Module
    shape: tuple[int, ...]
    T: int
    multi_step: bool
    seed: int

    def input(self, n: int = 3) -> torch.Tensor:
        """Pixels k/255, float64 (n, *shape)."""
        pixels = np.random.default_rng(self.seed).integers(0, 256, (n, *self.shape))
        return torch.from_numpy(pixels / 255)

    def run(self, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Output (N, T, F) and the spikes of every neuron layer by module path, (N, T, *shape)."""
        layers: dict[str, list[torch.Tensor]] = {}
        hooks = []
        for name, m in self.module.named_modules():
            if isinstance(m, neuron.BaseNode | neuron.SimpleIFNode):
                layers[name] = []
                hooks.append(m.register_forward_hook(lambda m, a, out, name=name: layers[name].append(out)))
        functional.reset_net(self.module)
        with torch.no_grad():
            if self.multi_step:
                out = self.module(x.expand(self.T, *x.shape)).movedim(0, 1)
                found = {n: v[0].movedim(0, 1) for n, v in layers.items()}
            else:
                out = torch.stack([self.module(x) for _ in range(self.T)], 1)
                found = {n: torch.stack(v, 1) for n, v in layers.items()}
        for hook in hooks:
            hook.remove()
        return out, found


class Residual(nn.Module):
    """Membrane add (two currents into one neuron layer) or SEW add (spikes of two layers), free-form forward."""

    def __init__(self, channels: int, out: int, stride: int, sew: bool, make_neuron) -> None:
        super().__init__()
        self.conv1 = layer.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = layer.BatchNorm2d(out)
        self.sn1 = make_neuron()
        self.conv2 = layer.Conv2d(out, out, 3, 1, 1)
        self.bn2 = layer.BatchNorm2d(out)
        self.sn2 = make_neuron()
        self.sew = sew
        self.down = None
        if stride != 1 or channels != out:
            parts: list[nn.Module] = [layer.Conv2d(channels, out, 1, stride, bias=False), layer.BatchNorm2d(out)]
            self.down = nn.Sequential(*parts, *([make_neuron()] if sew else []))

    def forward(self, x):
        skip = x if self.down is None else self.down(x)
        y = self.bn2(self.conv2(self.sn1(self.bn1(self.conv1(x)))))
        if self.sew:
            return self.sn2(y) + skip
        return self.sn2(y + skip)


def randomize(module: nn.Module, seed: int) -> None:
    """Weights and statistics with which neurons fire neither always nor never."""
    torch.manual_seed(seed)
    for m in module.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.2)
            m.running_var.uniform_(0.3, 2)
            m.weight.data.uniform_(0.5, 1.5)
            m.bias.data.normal_(0.3, 0.4)
        elif isinstance(m, nn.Conv2d | nn.Linear):
            fan_in = m.weight[0].numel()
            m.weight.data.normal_(0.3 / fan_in**0.5, 2 / fan_in**0.5)
            if m.bias is not None:
                m.bias.data.normal_(0.1, 0.3)
    module.double().eval()


@st.composite
def spiking_modules(
    draw, *, leaky: bool = True, residual: bool = True, soft: bool = True, average: bool = True
) -> Case:
    """A random network of SpikingJelly layers, conv part optional, with biases, BatchNorm, pools and residuals."""
    reset = draw(st.sampled_from([0.0, None])) if soft else 0.0
    kind = draw(st.sampled_from(["if", "lif", "lif_nodecay", "plif"])) if leaky else "if"

    def make_neuron() -> nn.Module:
        if kind == "if":
            return neuron.IFNode(v_threshold=1.0, v_reset=reset)
        if kind == "plif":
            return neuron.ParametricLIFNode(init_tau=2.5, v_reset=reset)
        return neuron.LIFNode(tau=1.7, decay_input=kind == "lif", v_reset=reset)

    modules: list[nn.Module] = []
    if draw(st.booleans()) or residual:
        shape: tuple[int, ...] = (draw(st.integers(1, 3)), draw(st.integers(5, 9)), draw(st.integers(5, 9)))
        channels, h, w = shape
        for _ in range(draw(st.integers(1, 2))):
            groups = draw(st.sampled_from([g for g in (1, 2, 3) if channels % g == 0]))
            out = groups * draw(st.integers(1, 3))
            k, s = draw(st.sampled_from([(1, 1), (2, 1), (3, 1), (3, 2)]))
            p, d = draw(st.integers(0, 1)), draw(st.integers(1, 2))
            h2, w2 = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n in (h, w))
            if h2 < 2 or w2 < 2:
                k, s, p, d, h2, w2 = 1, 1, 0, 1, h, w
            modules.append(layer.Conv2d(channels, out, k, s, p, d, groups, bias=draw(st.booleans())))
            channels, h, w = out, h2, w2
            if draw(st.booleans()):
                modules.append(layer.BatchNorm2d(channels))
            modules.append(make_neuron())
            pool = draw(st.sampled_from(["none", "max", "avg"] if average else ["none", "max"]))
            if pool != "none" and min(h, w) >= 2:
                modules.append(layer.MaxPool2d(2) if pool == "max" else layer.AvgPool2d(2))
                h, w = h // 2, w // 2
            if residual and draw(st.booleans()):
                out, stride = draw(st.sampled_from([(channels, 1), (2 * channels, 2)]))
                modules.append(Residual(channels, out, stride, draw(st.booleans()), make_neuron))
                channels, h, w = out, (h - 1) // stride + 1, (w - 1) // stride + 1
        modules.append(layer.Flatten())
        features = channels * h * w
    else:
        shape = (draw(st.integers(2, 12)),)
        features = shape[0]
    for _ in range(draw(st.integers(0, 1))):
        out = draw(st.integers(2, 8))
        modules += [layer.Linear(features, out, bias=draw(st.booleans())), layer.Dropout(0.5), make_neuron()]
        features = out
    modules.append(layer.Linear(features, draw(st.integers(2, 5))))
    if draw(st.booleans()):
        modules.append(make_neuron())
    module = nn.Sequential(*modules)
    multi_step = draw(st.booleans())
    functional.set_step_mode(module, "m" if multi_step else "s")
    seed = draw(st.integers(0, 2**31))
    randomize(module, seed)
    return Case(module, shape, draw(st.integers(1, 5)), multi_step, seed)


def random_integer_chain(seed: int, *, T: int | None = None) -> SpikingGraph:
    """An integer network of convolutions (stride, padding, dilation, groups), max-pools, dense layers and biases.

    Graded 8-bit input; thresholds such that rates are neither 0 nor 1. Runs on Lava through `to_chain`.
    """
    rng = np.random.default_rng(seed)
    nodes: list[tuple[str, Node]] = []

    def neurons(fan_in: int, unit: float) -> IF:
        return IF(int(max(1, unit * fan_in**0.5 * rng.uniform(10, 40))))

    def weights(*shape: int) -> np.ndarray:
        w = rng.integers(-40, 61, shape).astype(np.int32)
        w.flat[0] = 33  # never all of one sign
        return w

    def bias(n: int, unit: float) -> np.ndarray | None:
        return rng.integers(-20, 40, n).astype(np.int32) * int(unit) if rng.random() < 0.6 else None

    unit = 100.0  # a pixel's mean; spikes count as about one third of 1
    if rng.random() < 0.75:
        c, h, w = int(rng.integers(1, 4)), int(rng.integers(5, 9)), int(rng.integers(5, 9))
        nodes.append(("input", Input((c, h, w), "direct", 255)))
        for i in range(int(rng.integers(1, 3))):
            groups = int(rng.choice([g for g in (1, 2, 3) if c % g == 0]))
            out = groups * int(rng.integers(1, 4))
            k, s, p, d = (
                int(rng.integers(1, 4)),
                int(rng.integers(1, 3)),
                int(rng.integers(0, 2)),
                int(rng.integers(1, 3)),
            )
            h2, w2 = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n in (h, w))
            if h2 < 2 or w2 < 2:
                k, s, p, d, h2, w2 = 1, 1, 0, 1, h, w
            kernel = weights(out, c // groups, k, k)
            nodes.append((f"conv{i}", Conv2d(kernel, bias(out, unit), (s, s), (p, p), (d, d), groups)))
            nodes.append((f"conv{i}.if", neurons(c // groups * k * k, unit)))
            c, h, w, unit = out, h2, w2, 1.0
            if rng.random() < 0.5 and min(h, w) >= 3:
                pool = MaxPool2d((3, 3), (2, 2), (1, 1)) if rng.random() < 0.5 else MaxPool2d((2, 2), (2, 2))
                nodes.append((f"pool{i}", pool))
                h, w = ((n + 2 * pool.padding[0] - pool.kernel[0]) // 2 + 1 for n in (h, w))
        nodes.append(("flatten", Flatten()))
        features = c * h * w
    else:
        features = int(rng.integers(3, 20))
        nodes.append(("input", Input((features,), "direct", 255)))
    for i in range(int(rng.integers(1, 3))):
        out = int(rng.integers(2, 9))
        nodes.append((f"dense{i}", Linear(weights(out, features), bias(out, unit))))
        nodes.append((f"dense{i}.if", neurons(features, unit)))
        features, unit = out, 1.0
    nodes.append(("output", Output("rate")))
    return chain(nodes, T or int(rng.integers(1, 6)))


def random_integer_network(seed: int) -> SpikingGraph:
    """An integer network of everything that `to_chain` lowers, from a seed.

    Convolutions with stride, padding, dilation, groups, depthwise; max and average pools; membrane adds and
    SEW adds with identity, 1×1 and strided shortcuts; IF, LIF and current-based LIF; biases; pixels of 1 to 8 bits or
    spikes; read out as spikes or membranes. Rates are neither 0 nor 1 on the whole.
    """
    return _NetworkMaker(np.random.default_rng(seed)).make()


class _NetworkMaker:
    """Adds nodes at the end of a growing graph; `at` are the nodes whose sum comes next."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.nodes: dict[str, Node] = {}
        self.edges: list[tuple[str, str]] = []
        # side by side on a chip means one decay, so that residual networks have one kind of neuron throughout
        self.leak = float(rng.choice([1, 1, rng.integers(1, 4096) / 4096]))
        self.current_leak = float(rng.choice([0, 0, rng.integers(1, 3500) / 4096]))
        self.residual = self.current_leak == 0 and rng.random() < 0.6

    def add(self, name: str, node: Node, sources: list[str]) -> list[str]:
        self.nodes[name] = node
        self.edges += [(source, name) for source in sources]
        return [name]

    def make(self) -> SpikingGraph:
        rng = self.rng
        T = int(rng.integers(2, 7))
        spikes, bits = rng.random() < 0.3, int(rng.choice([1, 3, 6, 8, 8]))
        shape = (int(rng.integers(1, 4)), *map(int, rng.choice([6, 7, 8, 8, 9], 2)))
        if not self.residual and rng.random() < 0.15:
            shape = (int(rng.integers(3, 20)),)
        node = Input(shape, "spikes") if spikes else Input(shape, "direct", 2**bits - 1)
        at, size = self.add("input", node, []), shape
        unit = 0.5 if spikes else (2**bits - 1) / 2
        if len(shape) == 3:
            for i in range(int(rng.integers(1, 3))):
                at, size = self.convolution(f"conv{i}", at, size, unit)
                unit = 0.4
                at, size = self.pool(f"pool{i}", at, size)
                if self.residual:
                    at, size = self.block(f"block{i}", at, size)
                    if len(at) == 1:
                        at, size = self.pool(f"pool{i}b", at, size)
            at, size = self.add("flatten", Flatten(), at), (int(np.prod(size)),)
        for i in range(int(rng.integers(0, 2))):
            at, size = self.dense(f"dense{i}", at, size, unit)
            unit = 0.4
        features = int(rng.integers(2, 7))
        at = self.add("last", self.linear(size[0], features, unit), at)
        if rng.random() < 0.2:
            self.add("output", Output("membrane"), at)
        else:
            at = self.add("last.neurons", self.neurons(size[0] * unit), at)
            self.add("output", Output("rate"), at)
        return SpikingGraph(self.nodes, tuple(self.edges), T)

    # -- numbers -------------------------------------------------------------------------------

    def weights(self, *shape: int) -> np.ndarray:
        w = self.rng.integers(-40, 61, shape).astype(np.int32)
        w.flat[0] = 33  # never all of one sign
        return w

    def bias(self, n: int, unit: float) -> np.ndarray | None:
        if self.rng.random() < 0.4:
            return None
        return (self.rng.integers(-20, 40, n) * max(1, int(unit))).astype(np.int32)

    def linear(self, features: int, out: int, unit: float) -> Linear:
        return Linear(self.weights(out, features), self.bias(out, unit))

    def neurons(self, drive: float) -> IF | LIF:
        """`drive`: inputs times their size, of which weights of 30 or so make a current."""
        threshold = int(max(1, min(100_000, drive**0.5 * max(drive, 1) ** 0.2 * self.rng.uniform(15, 60))))
        return self.with_threshold(threshold)

    def with_threshold(self, threshold: int) -> IF | LIF:
        if self.leak == 1 and self.current_leak == 0:
            return IF(threshold)
        return LIF(threshold, self.leak, current_leak=self.current_leak)

    # -- layers --------------------------------------------------------------------------------

    def convolution(
        self, name: str, at: list[str], size: tuple[int, ...], unit: float
    ) -> tuple[list[str], tuple[int, ...]]:
        rng = self.rng
        c, h, w = size
        groups = int(rng.choice([g for g in (1, 2, 3) if c % g == 0]))
        out = groups * int(rng.integers(1, 4))
        k, s, p, d = (int(rng.integers(*r)) for r in ((1, 4), (1, 3), (0, 2), (1, 3)))
        h2, w2 = (window_positions(n, k, s, p, d) for n in (h, w))
        if min(h2, w2) < 3:
            k, s, p, d, h2, w2 = 3, 1, 1, 1, h, w
        kernel = self.weights(out, c // groups, k, k)
        at = self.add(name, Conv2d(kernel, self.bias(out, unit), (s, s), (p, p), (d, d), groups), at)
        return self.add(f"{name}.neurons", self.neurons(c // groups * k * k * unit), at), (out, h2, w2)

    def dense(self, name: str, at: list[str], size: tuple[int, ...], unit: float) -> tuple[list[str], tuple[int, ...]]:
        out = int(self.rng.integers(2, 9))
        at = self.add(name, self.linear(size[0], out, unit), at)
        return self.add(f"{name}.neurons", self.neurons(size[0] * unit), at), (out,)

    def pool(self, name: str, at: list[str], size: tuple[int, ...]) -> tuple[list[str], tuple[int, ...]]:
        kind = str(self.rng.choice(["none", "max", "padded max", "average", "average"]))
        c, h, w = size
        if kind == "none" or min(h, w) < 4:
            return at, size
        if kind == "padded max":
            node: Node = MaxPool2d((3, 3), (2, 2), (1, 1))
            return self.add(name, node, at), (c, (h + 1) // 2, (w + 1) // 2)
        if kind == "max":
            return self.add(name, MaxPool2d((2, 2), (2, 2)), at), (c, h // 2, w // 2)
        if h % 2 or w % 2:  # behind it a padded layer may stand, which merges with a pool that tiles its input
            return at, size
        return self.add(name, AvgPool2d((2, 2), (2, 2)), at), (c, h // 2, w // 2)

    def block(self, name: str, at: list[str], size: tuple[int, ...]) -> tuple[list[str], tuple[int, ...]]:
        """Two convolutions and a shortcut, added to their currents (membrane add) or to their spikes (SEW add)."""
        rng = self.rng
        c, h, w = size
        stride = int(rng.integers(1, 3)) if min(h, w) >= 4 else 1
        shortcut = stride > 1 or rng.random() < 0.5
        out = c * int(rng.integers(1, 3)) if shortcut else c
        first = Conv2d(self.weights(out, c, 3, 3), self.bias(out, 1), (stride, stride), (1, 1))
        threshold = int((9 * c) ** 0.5 * rng.uniform(10, 30))
        inner = self.add(f"{name}.conv1", first, at)
        inner = self.add(f"{name}.neurons1", self.with_threshold(threshold), inner)
        second = self.add(
            f"{name}.conv2", Conv2d(self.weights(out, out, 3, 3), self.bias(out, 1), padding=(1, 1)), inner
        )
        size = (out, (h - 1) // stride + 1, (w - 1) // stride + 1)
        down = Conv2d(self.weights(out, c, 1, 1), self.bias(out, 1), (stride, stride))
        fire = self.with_threshold(int((9 * out) ** 0.5 * rng.uniform(10, 30)))
        if rng.random() < 0.5:  # membrane add
            identity = Conv2d(np.full((c, 1, 1, 1), 20, np.int32), groups=c)
            skip = self.add(f"{name}.skip", down if shortcut else identity, at)
            return self.add(f"{name}.neurons2", fire, [*second, *skip]), size
        if shortcut:
            # beside the first neurons in one layer of the chip: IF may have any threshold, leaky ones the same
            other = threshold if isinstance(fire, LIF) else int(c**0.5 * rng.uniform(10, 30))
            skip = self.add(f"{name}.down", down, at)
            at = self.add(f"{name}.down.neurons", self.with_threshold(other), skip)
        return [*self.add(f"{name}.neurons2", fire, second), *at], size


def random_recurrent(
    seed: int, *, integer: bool = False, convolutional: bool | None = None, encoding: str = ""
) -> SpikingGraph:
    """Delays on edges and loops, of one layer or of two, one within another or side by side, behind spikes or frames.

    Weights of a float graph are multiples of 1/64, so that every sum is exact in float32.
    """
    rng = np.random.default_rng(seed)
    maps = bool(rng.integers(2)) if convolutional is None else convolutional
    shape = (int(rng.integers(1, 3)), 5, 4) if maps else (int(rng.integers(2, 7)),)
    drawn_encoding = str(rng.choice(["spikes", "spikes", "frames", "direct"]))
    encoding = encoding or drawn_encoding
    scale = 15 if integer and encoding != "spikes" else None
    nodes: dict[str, Node] = {"in": Input(shape, encoding, scale)}  # type: ignore[arg-type]
    edges: list[tuple[str, str]] = []

    def weight(*size: int) -> np.ndarray:
        drawn = rng.integers(-24, 41, size)
        return drawn if integer else drawn / 64

    def synapse(inputs: tuple[int, ...], outputs: int, kernel: int = 3) -> Conv2d | Linear:
        bias = weight(outputs) // 4 if integer else weight(outputs) / 4
        chosen = bias if rng.integers(2) else None
        if len(inputs) == 3:
            return Conv2d(weight(outputs, inputs[0], kernel, kernel), chosen, padding=(kernel // 2, kernel // 2))
        return Linear(weight(outputs, inputs[0]), chosen)

    def cells() -> IF | LIF:
        threshold = int(rng.integers(30, 80)) if integer else float(rng.integers(30, 80)) / 64
        reset = "soft" if rng.integers(4) == 0 else "hard"
        if rng.integers(2):
            return IF(threshold, reset)  # type: ignore[arg-type]
        return LIF(threshold, [0.5, 0.75, 0.875][rng.integers(3)], reset)  # type: ignore[arg-type]

    def lags(size: tuple[int, ...], least: int) -> Delay:
        if rng.integers(2):
            return Delay(np.full(size, rng.integers(least, 4)))
        return Delay(rng.integers(least, 5, size))

    def add(name: str, node: Node, *sources: str) -> str:
        nodes[name] = node
        edges.extend((source, name) for source in sources)
        return name

    def layer_behind(name: str, source: str, inputs: tuple[int, ...], *, recurrent: bool) -> tuple[int, ...]:
        outputs = int(rng.integers(2, 5))
        size = (outputs, *inputs[1:])
        read = source
        if rng.integers(2):
            read = add(f"{name}.delay", lags(inputs, 0), source)
        feeding = [add(f"{name}.w", synapse(inputs, outputs), read)]
        if recurrent:
            add(f"{name}.back", lags(size, 1))
            feeding.append(add(f"{name}.u", synapse(size, outputs), f"{name}.back"))
        add(name, cells(), *feeding)
        if recurrent:
            edges.append((name, f"{name}.back"))
        return size

    first = layer_behind("a", "in", shape, recurrent=bool(rng.integers(2)))
    second = layer_behind("b", "a", first, recurrent=bool(rng.integers(2)))
    if rng.integers(2):  # around both, or from the second into the first
        add("around", lags(second, 1), "b")
        add("around.u", synapse(second, first[0]), "around")
        edges.append(("around.u", "a"))
    read = add("flat", Flatten(), "b") if maps else "b"
    add("w", Linear(weight(3, int(np.prod(second)))), read)
    if rng.integers(2):
        add("n", cells(), "w")
        add("out", Output(), "n")
    else:
        add("out", Output("membrane"), "w")
    return SpikingGraph(nodes, tuple(edges), int(rng.integers(3, 7)))


def random_frames(graph: SpikingGraph, samples: int, seed: int) -> np.ndarray:
    """What a graph takes, as `graph.encode` returns it."""
    rng = np.random.default_rng(seed)
    size = (samples, *([graph.T] if graph.input.over_time else []), *graph.shapes[graph.input_name])
    if not graph.input.is_graded:
        return (rng.random(size) < 0.5).astype(np.float32)
    return graph.encode(rng.integers(0, 16, size) / np.float32(16))


def random_dense_time(seed: int) -> SpikingGraph:
    """An integer chain of dense layers with delays of all shapes and with recurrence, all of which netx can say.

    Biases let neurons fire, and loops go on, while no sample is there. Here and there a convolution comes first, a pool before it.
    """
    rng = np.random.default_rng([seed, 16])
    encoding = ("spikes", "spikes", "frames", "direct")[rng.integers(4)]
    top = int(rng.choice([1, 15])) if encoding != "spikes" else 1
    maps = rng.integers(4) == 0
    nodes: dict[str, Node] = {}
    edges: list[tuple[str, str]] = []

    def add(name: str, node: Node, *sources: str) -> str:
        nodes[name] = node
        edges.extend((source, name) for source in sources)
        return name

    def weight(*size: int) -> np.ndarray:
        least = int(rng.choice([-60, -60, -60, 1]))  # now and then of one sign
        drawn = rng.integers(least, 90, size) * (rng.random(size) < 0.8)
        return (drawn * (-1 if least > 0 and rng.integers(2) else 1)).astype(np.int32)

    def bias(size: int) -> np.ndarray | None:
        return rng.integers(-10, 60, size).astype(np.int32) if rng.integers(2) else None

    def cells(reach: float) -> IF | LIF:
        threshold = int(rng.integers(30, 60 + 40 * reach))
        leak = float(rng.choice([0.5, 0.75, 3001 / 4096]))
        return (IF(threshold), LIF(threshold, leak), LIF(2 * threshold, leak, current_leak=0.25))[rng.integers(3)]

    size: tuple[int, ...] = (2, 4, 4) if maps else (int(rng.integers(3, 9)),)
    at = add("in", Input(size, encoding, None if encoding == "spikes" else top))  # type: ignore[arg-type]
    if maps:
        at = add("conv", Conv2d(rng.integers(-30, 60, (3, 2, 3, 3)).astype(np.int32), bias(3)), at)
        at = add("conv.n", cells(top), at)
        if rng.integers(2):
            at = add("pool", (MaxPool2d if rng.integers(2) else AvgPool2d)((2, 2), (2, 2)), at)
            if isinstance(pool := nodes[at], AvgPool2d):
                nodes[at] = replace(pool, divisor=1)
        at = add("flat", Flatten(), at)
        size = (int(np.prod(_shape_after(nodes))),)

    for k in range(int(rng.integers(1, 4))):
        name, inputs, reads_sum = f"fc{k}", size[0], isinstance(nodes.get("pool"), AvgPool2d) and at == "flat"
        outputs = inputs if rng.integers(3) == 0 else int(rng.integers(3, 9))
        kinds = ["none", "recurrent", "recurrent"]
        if not reads_sum:
            kinds += ["all", "inputs", "neurons", "matrix"]
            if at != "in" or encoding == "spikes":  # these take relays
                kinds += ["both", "twice"]
        kind = str(rng.choice(kinds))
        w, u = weight(outputs, inputs), weight(outputs, outputs)
        w[rng.integers(outputs), rng.integers(inputs)] = 90  # Lava takes no layer without a positive weight
        lags = rng.integers(0, 5, {"all": (), "inputs": inputs, "neurons": (outputs, 1)}.get(kind, (outputs, inputs)))
        lags = np.broadcast_to(lags if kind not in ("none", "recurrent") else 0, w.shape)
        parts = [lags[0]] if (lags == lags[0]).all() else [np.full(inputs, d) for d in np.unique(lags)]
        feeding = []
        for i, steps in enumerate(parts):
            read = add(f"{name}.d{i}", Delay(steps), at) if steps.any() else at
            feeding.append(add(f"{name}.w{i}", Linear(w * (lags == steps), bias(outputs)), read))
        if kind == "twice":
            again = add(f"{name}.again", Delay(rng.integers(1, 4, inputs)), at)
            feeding.append(add(f"{name}.w", Linear(weight(outputs, inputs)), again))
        if kind in ("recurrent", "both"):
            add(f"{name}.back", Delay(np.ones(outputs, int)))
            feeding.append(add(f"{name}.u", Linear(u), f"{name}.back"))
        last, size = at, (outputs,)
        at = add(f"{name}.n", cells(top if last == "in" else 4.0 if reads_sum else 1.0), *feeding)
        edges += [(at, back) for back in nodes if back == f"{name}.back"]
    if rng.integers(3) == 0:
        add("out.w", Linear(weight(3, size[0]) - weight(3, size[0])), at)
        add("out", Output("membrane"), "out.w")
    else:
        add("out", Output(), at)
    return SpikingGraph(nodes, tuple(edges), int(rng.integers(2, 9)))


def _shape_after(nodes: Mapping[str, Node]) -> tuple[int, ...]:
    """What comes out of the front of convolution and pool."""
    return (3, 1, 1) if "pool" in nodes else (3, 2, 2)
