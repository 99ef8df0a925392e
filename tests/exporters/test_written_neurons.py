"""Neurons that networks write out themselves: understood from their arithmetic, or refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import nn

from exporters.from_torch import LoweringError, from_torch, lower_module
from exporters.graph import IF, LIF
from tests.exporters.faithful import assert_faithful


class Step(torch.autograd.Function):
    """A surrogate gradient, as everybody writes it."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.gt(0).to(x)

    @staticmethod
    def backward(ctx, grad):
        return grad


class LIFOverTime(nn.Module):
    """(N, T, …): a loop over time inside, hard reset, firing above the threshold."""

    def __init__(self, threshold: float = 1.0, tau: float = 0.5) -> None:
        super().__init__()
        self.threshold, self.tau = threshold, tau

    def forward(self, x):
        mem, out = 0, []
        for t in range(x.shape[1]):
            mem = mem * self.tau + x[:, t, ...]
            spike = Step.apply(mem - self.threshold)
            mem = (1 - spike) * mem
            out.append(spike)
        return torch.stack(out, dim=1)


class Flattened(nn.Module):
    """(T·N, …) in and out, as networks do that keep time in the batch."""

    def __init__(self, T: int, soft: bool) -> None:
        super().__init__()
        self.T, self.soft = T, soft

    def forward(self, x):
        x = x.view(self.T, -1, *x.shape[1:])
        v, out = torch.zeros_like(x[0]), []
        for current in x:
            v = 0.75 * v + current
            spike = (v >= 0.6).to(v)
            v = v - 0.6 * spike.detach() if self.soft else v * (1 - spike.detach())
            out.append(spike)
        return torch.stack(out).flatten(0, 1)


class Stateful(nn.Module):
    """One step a call, the membrane in an attribute; PLIF: the leak is a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.v = nn.Parameter(torch.tensor(0.3)), None

    def forward(self, x):
        if self.v is None:
            self.v = torch.zeros_like(x)
        self.v = self.v + (x - self.v) * self.w.sigmoid()
        spike = torch.ge(self.v, 0.4).to(x)
        self.v = torch.where(spike > 0, torch.zeros_like(self.v), self.v)
        return spike


class SeqToANN(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.module = nn.Sequential(*layers)

    def forward(self, x):
        y = self.module(x.flatten(0, 1).contiguous())
        return y.view(*x.shape[:2], *y.shape[1:])


class Over(nn.Module):
    """Repeats the image over time on the second axis."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(*layers)

    def forward(self, x):
        return self.net(x.unsqueeze(1).repeat(1, 4, *[1] * (x.dim() - 1)))


class Inline(nn.Module):
    """A network without neuron modules: functions of membrane and spikes (STBP)."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.f1, self.f2 = nn.Linear(24, 16), nn.Linear(16, 10)

    def update(self, layer, x, mem, spike):
        mem = mem * 0.2 * (1.0 - spike) + layer(x)
        return mem, Step.apply(mem - 0.5)

    def forward(self, x):
        n = x.size(0)
        m1 = s1 = torch.zeros(n, 4, 8, 8)
        m2 = s2 = torch.zeros(n, 6, 4, 4)
        m3 = s3 = torch.zeros(n, 16)
        m4 = s4 = total = torch.zeros(n, 10)
        for _ in range(4):
            m1, s1 = self.update(self.c1, x, m1, s1)
            m2, s2 = self.update(self.c2, nn.functional.avg_pool2d(s1, 2), m2, s2)
            m3, s3 = self.update(self.f1, nn.functional.avg_pool2d(s2, 2).view(n, -1), m3, s3)
            m4, s4 = self.update(self.f2, s3, m4, s4)
            total = total + s4
        return total / 4


class Masked(nn.Module):
    """v[spikes] = 0, decay of membrane and input."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(12, 20), nn.Linear(20, 5)

    def forward(self, x):
        v, w, out = torch.zeros(x.shape[0], 20), torch.zeros(x.shape[0], 5), []
        for _ in range(4):
            v = v + (self.a(x) - v) / 1.5
            k = v >= 0.2
            v[k] = 0
            w = w * 0.5 + self.b(k.to(v))
            z = w > 0.15
            w = w.masked_fill(z, 0.0)
            out.append(z.to(w))
        return torch.stack(out).mean(0)


class ChangedLIF(neuron.LIFNode):
    """SpikingJelly's, with a step of its own, which happens to do the same."""

    def single_step_forward(self, x):
        return super().single_step_forward(x)


class ResetsElsewhere(neuron.IFNode):
    """Resets to −0.2: counted from there it is another threshold."""

    def __init__(self) -> None:
        super().__init__(v_reset=-0.2)

    def single_step_forward(self, x):
        return super().single_step_forward(x)


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(7)
    yield
    torch.set_default_dtype(torch.float32)


def sequential(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers)


NETS = {
    "a loop over time inside the neuron": ((1, 8, 8), lambda: Over(
        SeqToANN(nn.Conv2d(1, 8, 3, 1, 1), nn.BatchNorm2d(8)), LIFOverTime(), SeqToANN(nn.Conv2d(8, 8, 3, 2, 1)), LIFOverTime(0.3),
        SeqToANN(nn.Flatten(), nn.Linear(128, 10))), {LIF(1, 0.5).leak}),
    "time in the batch, hard": ((12,), lambda: Repeats(nn.Linear(12, 30), Flattened(4, False), nn.Linear(30, 5)), {0.75}),
    "time in the batch, soft": ((12,), lambda: Repeats(nn.Linear(12, 30), Flattened(4, True), nn.Linear(30, 5)), {0.75}),
    "one step a call": ((12,), lambda: sequential(nn.Linear(12, 30), Stateful(), nn.Linear(30, 5), Stateful()), None),
    "functions": ((1, 8, 8), Inline, {0.2}),
    "masks": ((12,), Masked, {1 - 1 / 1.5, 0.5}),
    "a subclass with a step of its own": ((12,), lambda: sequential(nn.Linear(12, 20), ChangedLIF(2.5), nn.Linear(20, 5)), {0.6}),
    "a reset elsewhere": ((12,), lambda: sequential(nn.Linear(12, 20), ResetsElsewhere(), nn.Linear(20, 5)), {1.0}),
}  # fmt: skip


class Repeats(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(*layers)

    def forward(self, x):
        return self.net(x.repeat(4, 1)).view(4, x.size(0), -1).sum(0)


@pytest.mark.parametrize("name", NETS)
def test_they_spike_as_the_module_does(name: str) -> None:
    shape, make, leaks = NETS[name]
    found = assert_faithful(make(), shape, 4, n=5)
    assert found.notes and all(note.startswith("understood from its arithmetic") for note in found.notes.values())
    assert set(found.graph.metadata["recognized"]) == set(found.notes)
    assert found.graph.neurons.keys() == found.notes.keys()
    if leaks is not None:
        assert {round(n.leak, 12) for n in found.graph.neurons.values()} == {round(leak, 12) for leak in leaks}


def test_the_numbers_of_a_neuron_are_found_exactly() -> None:
    net = Over(SeqToANN(nn.Linear(6, 4)), LIFOverTime(0.3, 0.9))
    node = next(iter(from_torch(net, (6,), 4).neurons.values()))
    assert isinstance(node, LIF) and node.leak == 0.9 and node.reset == "hard"
    assert node.threshold == np.nextafter(0.3, 1)  # above the threshold: at least the next number
    float32 = from_torch(net.float(), (6,), 4)
    assert next(iter(float32.neurons.values())).threshold == np.nextafter(np.float32(0.3), np.float32(1))


def test_ties_are_those_of_the_network() -> None:
    """Weights of 1/2 and pixels of 0 or 1: membranes meet the threshold all the time."""
    for above in (False, True):

        class Tie(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.fc = nn.Linear(4, 6, bias=False)
                self.fc.weight.data = torch.randint(-1, 3, (6, 4)).double() / 2

            def forward(self, x):
                v, total = 0.0, 0.0
                for _ in range(4):
                    v = v + self.fc(x)
                    spike = (v > 1.0 if above else v >= 1.0).to(x)  # noqa: B023
                    v = v - spike
                    total = total + spike
                return total

        net = Tie()
        found = lower_module(net, (4,), 4)
        x = torch.randint(0, 2, (40, 4)).double()
        from hardware.emulator import run

        scores = run(found.graph, x.numpy(), dtype=torch.float64).scores() * found.calling.factor
        np.testing.assert_array_equal(scores, net(x).detach().numpy())


class Refractory(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 5)

    def forward(self, x):
        v, total = 0.0, 0
        for _ in range(4):
            v = v * 0.5 + self.fc(x)
            spike = (v >= 0.3).to(x)
            v = v - 0.3 * spike - 0.1 * total
            total = total + spike
        return total


class DelayedReset(nn.Module):
    """snnTorch's reset: at the next step, without the leak."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 5)

    def forward(self, x):
        v, out = torch.zeros(x.shape[0], 5), []
        for _ in range(4):
            reset = (v > 0.3).to(x)
            v = 0.9 * v + self.fc(x) - reset * 0.3
            out.append((v > 0.3).to(x))
        return torch.stack(out)


class Adaptive(nn.Module):
    """A threshold that rises with every spike."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 5)

    def forward(self, x):
        v, threshold, total = 0.0, 0.3, 0
        for _ in range(4):
            v = v * 0.5 + self.fc(x)
            spike = (v - threshold >= 0).to(x)
            v, threshold, total = v * (1 - spike), threshold + 0.1 * spike, total + spike
        return total


class ChangesItsLeak(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 5)

    def forward(self, x):
        v, total = 0.0, 0
        for t in range(4):
            v = v * (0.5 + 0.1 * t) + self.fc(x)
            spike = (v >= 0.3).to(x)
            v, total = v * (1 - spike), total + spike
        return total


class StartsAbove(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 5)

    def forward(self, x):
        v, total = torch.full((x.shape[0], 5), 0.25), 0
        for _ in range(4):
            v = v * 0.5 + self.fc(x)
            spike = (v >= 0.3).to(x)
            v, total = v * (1 - spike), total + spike
        return total


class ClampedMembrane(ChangesItsLeak):
    def forward(self, x):
        v, total = 0.0, 0
        for _ in range(4):
            v = torch.relu(v * 0.5 + self.fc(x))
            spike = (v >= 0.3).to(x)
            v, total = v * (1 - spike), total + spike
        return total


class Ternary(ChangesItsLeak):
    def forward(self, x):
        v, total = 0.0, 0
        for _ in range(4):
            v = v + self.fc(x)
            spike = (v >= 0.3).to(x) - (v <= -0.3).to(x)
            v, total = v * (1 - spike.abs()), total + spike
        return total


@pytest.mark.parametrize("kind", [Refractory, Adaptive, ChangesItsLeak, ClampedMembrane, Ternary])
def test_other_dynamics_are_refused_and_never_another_neuron(kind: type[nn.Module]) -> None:
    with pytest.raises(LoweringError) as caught:
        lower_module(kind(), (12,), 4)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("kind", "start"), [(StartsAbove, 0.25), (DelayedReset, 1 / 30)])
def test_dynamics_that_are_a_neuron_in_other_words_come_in(kind: type[nn.Module], start: float) -> None:
    """A reset at the next step is one by subtraction, of a membrane that is shifted."""
    torch.manual_seed(0)
    found = assert_faithful(kind(), (12,), 4, n=20)
    (node,) = found.graph.neurons.values()
    assert node.start == pytest.approx(start) and node.reset == ("hard" if kind is StartsAbove else "soft")


# -- declared ------------------------------------------------------------------------------------------


class Opaque(nn.Module):
    """A neuron whose arithmetic is hidden in numpy."""

    def __init__(self, leak: float = 0.5) -> None:
        super().__init__()
        self.leak, self.v = leak, None

    def forward(self, x):
        values = x.detach().numpy()
        self.v = values if self.v is None else self.leak * self.v + values
        spikes = (self.v >= 0.7).astype(values.dtype)
        self.v = self.v * (1 - spikes)
        return torch.from_numpy(spikes)


def opaque() -> nn.Sequential:
    return nn.Sequential(nn.Linear(12, 20), Opaque(), nn.Linear(20, 5))


def test_a_neuron_can_be_declared_and_is_checked() -> None:
    with pytest.raises(LoweringError, match=r"opaque1: .*numpy"):
        from_torch(opaque(), (12,), 4)
    found = lower_module(opaque(), (12,), 4, neuron_as={"Opaque": "LIF:leak=0.5,v_threshold=0.7"})
    node = found.graph.neurons["opaque1"]
    assert isinstance(node, LIF) and (node.threshold, node.leak) == (0.7, 0.5)
    assert found.notes["opaque1"].startswith("declared")
    for wrong in (
        "LIF:leak=0.6,v_threshold=0.7",
        "IF:v_threshold=0.7",
        "LIF:tau=2,v_threshold=0.7",
        "LIF:leak=0.5,v_threshold=0.7,v_reset=none",
    ):
        with pytest.raises(LoweringError, match=r"1: it was declared to be another neuron than it is: \d+ of"):
            from_torch(opaque(), (12,), 4, neuron_as={"Opaque": wrong})


def test_a_declaration_is_checked_up_to_what_rounding_decides() -> None:
    """Random currents alone would pass constants that are off by 1e-4: so many end as close to a threshold as rounding allows."""
    for off in (1.0001, 0.9999):
        for wrong in (f"LIF:leak=0.5,v_threshold={0.7 * off}", f"LIF:leak={0.5 * off},v_threshold=0.7"):
            with pytest.raises(LoweringError, match="declared to be another neuron"):
                from_torch(opaque().float(), (12,), 4, neuron_as={"Opaque": wrong})
    # the same number in the network's own type is the same neuron
    from_torch(opaque().float(), (12,), 4, neuron_as={"Opaque": f"LIF:leak=0.5,v_threshold={float(np.float32(0.7))}"})


def test_a_declared_neuron_that_is_silent_at_its_threshold() -> None:
    class Above(Opaque):
        def forward(self, x):
            values = x.detach().numpy()
            self.v = values if self.v is None else self.v + values
            spikes = (self.v > 0.75).astype(values.dtype)
            self.v = self.v * (1 - spikes)
            return torch.from_numpy(spikes)

    net = nn.Sequential(nn.Linear(12, 20), Above(), nn.Linear(20, 5)).float()
    found = lower_module(net, (12,), 4, neuron_as={Above.__qualname__: "IF:v_threshold=0.75"})
    node = found.graph.neurons["above1"]
    assert node.threshold == float(np.nextafter(np.float32(0.75), np.float32(1)))
    assert (
        found.notes["above1"] == "declared by the user, which fires above its threshold, and checked on random currents"
    )
    assert found.calling.declared == (Above.__qualname__,)


def test_what_rests_or_gives_more_than_spikes_is_no_declared_neuron() -> None:
    class Resting(Opaque):
        """Takes in nothing in the step after a spike."""

        def forward(self, x):
            values = x.detach().numpy()
            rested = values * (1 - getattr(self, "last", 0.0 * values))
            self.v = rested if self.v is None else self.v + rested
            self.last = (self.v >= 0.7).astype(values.dtype)
            self.v = self.v * (1 - self.last)
            return torch.from_numpy(self.last)

    class Graded(Opaque):
        def forward(self, x):
            return 2 * super().forward(x)

    for kind, message in ((Resting, "declared to be another neuron"), (Graded, "is not 0 or 1 everywhere")):
        net = nn.Sequential(nn.Linear(12, 20), kind(), nn.Linear(20, 5))
        with pytest.raises(LoweringError, match=message):
            from_torch(net, (12,), 4, neuron_as={kind.__qualname__: "IF:v_threshold=0.7"})


@pytest.mark.parametrize(
    "text", ["QIF", "LIF", "LIF:tau=two", "LIF:tau=2,leak=0.5", "IF:tau=2", "IF:v_reset=0.5", "IF:v_threshold"]
)
def test_declarations_that_cannot_be_read(text: str) -> None:
    with pytest.raises(LoweringError, match="Opaque: "):
        from_torch(opaque(), (12,), 4, neuron_as={"Opaque": text})


def test_declared_multi_step_neurons() -> None:
    class Over4(nn.Module):
        def forward(self, x):
            values, v, out = x.detach().numpy(), 0.0, []
            for current in values:
                v = v + current
                spikes = (v >= 1.0).astype(values.dtype)
                v = v - spikes
                out.append(spikes)
            return torch.from_numpy(np.stack(out))

    net = nn.Sequential(nn.Linear(12, 20), Over4(), nn.Linear(20, 5))
    found = lower_module(net, (12,), 4, neuron_as={Over4.__qualname__: "IF:v_reset=none"})
    assert found.calling.way == "frames"
    assert isinstance(found.graph.neurons["over41"], IF) and found.graph.neurons["over41"].reset == "soft"
