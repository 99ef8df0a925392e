"""The model of Lemaire et al. 2022 (arXiv 2210.13107): its check values, an example by hand, SpikingJelly's counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from spikingjelly.activation_based.op_counter.analytical_energy import LemaireEnergyConfig, estimate_lemaire_energy

from exporters.from_torch import from_torch
from exporters.graph import LIF, AvgPool2d, Conv2d, Flatten, Input, Linear, Output, chain
from hardware import emulator
from profilers.counting.activity import Activity, ActivityCounter
from profilers.counting.fanout import connections_into, lemaire_fan_out
from profilers.energy.evaluation import break_even, energy
from profilers.energy.models import built_in
from profilers.energy.operations import Counts, dense_ann, snn_counts

MODEL = built_in()["lemaire2022"]


@pytest.mark.parametrize(("kilobytes", "picojoules"), [(8, 13.9), (32, 16.1), (1024, 104.6)])
def test_memory_at_the_papers_sizes(kilobytes: int, picojoules: float) -> None:
    assert MODEL.constants["memory"].at(kilobytes * 1024 * 8).nominal * 1e12 == pytest.approx(picojoules, abs=0.05)


def test_the_queue_is_a_memory_of_1000_words() -> None:
    assert MODEL.word_bits == 16
    queue, memory = MODEL.constants["queue"], MODEL.constants["memory"].at(1000 * 16)
    assert queue.joules.nominal == pytest.approx(memory.nominal)
    assert queue.joules.low == memory.low == 2.5e-12  # a 64-bit word of 8 KB SRAM is 10 pJ, four words of 16 bits


def ram(words: int) -> float:
    """E_ram of the paper, in pJ."""
    return 1.09e-5 * words * 16 + 13.2


def counted() -> Activity:
    """1×5×5 pixels → 2×3×3 LIF neurons, which spike 7 times in T = 3 steps → conv, stride 2 → 4 outputs."""
    graph = chain(
        [
            ("in", Input((1, 5, 5))),
            ("a", Conv2d(np.ones((2, 1, 3, 3)), np.zeros(2))),
            ("n", LIF(1.0, 0.5)),
            ("b", Conv2d(np.ones((4, 2, 3, 3)), np.zeros(4), stride=(2, 2))),
            ("o", Output("membrane")),
        ],
        T=3,
    )
    counter = ActivityCounter(graph)
    spikes = torch.zeros(3, 1, 2, 3, 3)
    spikes.view(-1)[[0, 5, 11, 20, 21, 40, 53]] = 1
    counter("in", torch.ones(1, 1, 1, 5, 5))
    counter("n", spikes)
    return counter.result()


def test_by_hand() -> None:
    estimate = energy(MODEL, snn_counts(counted()))
    assert estimate.left_out == ()
    lines = {line.name: line.joules.nominal * 1e12 for line in estimate.breakdown}
    T, theta, first, second = 3, 7, 2 * 9 * 9, 4 * 9  # steps, spikes, MACs of the encoder, weight reads per spike
    expected = {
        "multiply-accumulate (analog input)": T * first * 3.2,
        "multiply-accumulate (leak)": T * 18 * 3.2,
        "accumulate (per synaptic operation, Lemaire’s)": theta * 4 * 2 * 2 * 0.1,  # ⌈3 / 2⌉ = 2
        "bias": T * (18 + 4) * 0.1,
        "reset": theta * 0.1,
        "address, addition (analog input)": T * (25 + 18 + 2 * 9) * 0.1,
        "address, addition": theta * second * 0.1,
        "address, multiply-accumulate": 2 * theta * 3.2,
        "read input (analog input)": T * first * ram(25),
        "read weight (analog input)": T * first * ram(18),
        "read spike": theta * ram(1000),
        "write spike": theta * ram(1000),
        "read weight": theta * second * ram(72),
        "read bias": T * (18 * ram(2) + 4 * ram(4)),
        "read and write membrane, per synapse": 2 * theta * second * ram(4),
        "read and write membrane, per step": 2 * T * 18 * ram(18),
    }
    assert lines == pytest.approx(expected)
    assert estimate.nominal == pytest.approx(sum(expected.values()) * 1e-12)
    assert estimate.low < estimate.nominal == estimate.high


def test_the_dense_ann_by_hand_and_break_even_where_both_cost_the_same() -> None:
    activity = counted()
    dense = dense_ann([s.shape for s in activity.synapses.values()])
    estimate = energy(MODEL, dense)
    a, b = 2 * 9 * 9, 4 * 2 * 9
    operations = (a + b) * 3.2 + (18 + 4) * 0.1 + (25 + 18 + 18 + 18 + 4 + 36) * 0.1
    memory = a * (ram(25) + ram(18)) + b * (ram(18) + ram(72)) + 18 * (ram(2) + ram(18)) + 4 * (ram(4) + ram(4))
    assert estimate.nominal == pytest.approx((operations + memory) * 1e-12)

    counts = snn_counts(activity)
    rate = break_even(MODEL, dense, counts)
    assert rate is not None and counts.spikes_per_synapse is not None
    scale = rate.nominal / counts.spikes_per_synapse
    fixed = energy(MODEL, snn_counts(silent(activity))).nominal
    assert fixed + scale * (energy(MODEL, counts).nominal - fixed) == pytest.approx(max(estimate.nominal, fixed))


def silent(activity: Activity) -> Activity:
    from dataclasses import replace

    def zero(part: object, *names: str) -> object:
        return replace(part, **{name: 0 * getattr(part, name) for name in names})  # type: ignore[type-var]

    fields = ("events", "operations", "operations_nonzero", "rate_macs", "operations_lemaire", "weight_reads")
    synapses = {n: s if s.role != "spikes" else zero(s, *fields) for n, s in activity.synapses.items()}
    neurons = {n: zero(s, "spikes") for n, s in activity.neurons.items()}
    return Activity(activity.T, activity.samples, neurons, synapses)  # type: ignore[arg-type]


@pytest.mark.parametrize("leaky", [False, True])
def test_counts_agree_with_spikingjelly(leaky: bool) -> None:
    torch.manual_seed(0)

    def node() -> neuron.BaseNode:
        # decay_input=False and v_reset=0: v ← v / tau + x, which the graph has as leak 1 / tau
        return neuron.LIFNode(tau=2.0, decay_input=False, step_mode="m") if leaky else neuron.IFNode(step_mode="m")

    net = torch.nn.Sequential(
        layer.Conv2d(3, 8, 3, padding=1, step_mode="m"),
        node(),
        layer.Conv2d(8, 12, 3, stride=2, padding=1, groups=2, step_mode="m"),
        node(),
        layer.Flatten(step_mode="m"),
        layer.Linear(12 * 4 * 4, 10, step_mode="m"),
    ).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.weight.data *= 2
    T, images = 4, torch.rand(5, 3, 8, 8) * 2
    graph = from_torch(net, (3, 8, 8), T)
    functional.reset_net(net)
    with pytest.warns(RuntimeWarning, match="Flatten"):
        report = estimate_lemaire_energy(
            net, images.expand(T, *images.shape).contiguous(), config=LemaireEnergyConfig(strict=False)
        )
    theirs = dict(report.counts)
    theirs["acc_addr"] += (T * 5 - 1) * 8 * 9  # it adds the encoder's kernel once per batch, not per sample and step

    counter = ActivityCounter(graph)
    emulator.run(graph, images.numpy(), observe=counter)
    counts = snn_counts(counter.result())
    assert theirs["synop"] > 0
    ours = {
        "synop": total(counts, "synops_lemaire"),
        "ac": total(counts, "synops_lemaire", "bias_adds", "spikes"),
        "mac": total(counts, "macs", "leak_macs"),
        "acc_addr": total(counts, "address_adds", "spike_address_adds"),
        "mac_addr": total(counts, "spike_address_macs"),
        "read_in_bytes": 4 * total(counts, "input_reads", "spike_reads"),
        "write_out_bytes": 4 * total(counts, "spike_writes"),
        "read_params_bytes": 4 * total(counts, "weight_reads", "spike_weight_reads", "bias_reads"),
        "read_potential_bytes": 4 * total(counts, "membrane_accesses", "spike_membrane_accesses"),
        "write_potential_bytes": 4 * total(counts, "membrane_accesses", "spike_membrane_accesses"),
    }
    assert {name: 5 * value for name, value in ours.items()} == pytest.approx(theirs)


def total(counts: Counts, *names: str) -> float:
    plain = sum(counts.values[name].nominal for name in names if name in counts.values)
    return plain + sum(a.count.nominal for name in names for a in counts.accesses.get(name, ()))


def test_average_pools_pass_spikes_on_to_every_cell_that_sees_them() -> None:
    graph = chain(
        [
            ("in", Input((2, 8, 8), "spikes")),
            ("pool", AvgPool2d((3, 2), (2, 2), (0, 0), 6)),
            ("conv", Conv2d(np.ones((5, 2, 3, 2)), stride=(1, 2))),
            ("flat", Flatten()),
            ("fc", Linear(np.ones((3, 10)))),
            ("o", Output("membrane")),
        ],
        T=1,
    )
    # ⌈3/2⌉ · ⌈2/2⌉ = 2 cells; 5 channels × 3 · 1 windows, 5 × 3 · 2 weights
    assert lemaire_fan_out(graph, connections_into(graph, "conv")[0]) == (2 * 5 * 3, 2 * 5 * 6)
    assert lemaire_fan_out(graph, connections_into(graph, "fc")[0]) == (3, 3)
