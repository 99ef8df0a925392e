"""Step-time models beside what was measured on silicon: `python -m benchmarks step_times`.

The network of Blouw et al. 2018 (keyword spotting, 390-256-256-29) is placed and timed with all its neurons silent, a tenth
of them firing and all firing in every step; of other published pairs only counts are known, which bound a step. Last comes
the 2conv network of the results, whose layers fire at the rates that its report tells, each neuron and step by itself.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch

from exporters.graph import IF, Conv2d, Flatten, Input, Linear, MaxPool2d, Output, SpikingGraph, chain
from exporters.passes.chain import to_chain
from hardware.chips import fit, limits
from hardware.chips.placement import place
from hardware.chips.work import CoreCounter, farthest, tiles
from kdsnn.deploy.on_chip import timed_network
from profilers.counting.activity import ActivityCounter
from profilers.energy import operations, time_models, timing
from profilers.energy.models import Range
from profilers.energy.models import built_in as energy_models
from profilers.energy.operations import Counts
from profilers.report.numbers import spread
from profilers.report.time_tables import span

KEYWORDS_STEP, KEYWORDS_STEPS, KEYWORDS_JOULES = 1 / (297 * 10), 10, 0.3717e-3
MNIST_STEPS, MNIST_SECONDS, MNIST_JOULES = 100, 6.65e-3, 0.66e-3
MNIST_NEURONS, MNIST_CONNECTIONS, MNIST_CORES = 4000, 341_000, 14
CIFAR_SECONDS, CIFAR_JOULES, CIFAR_CHIPS = 0.340, 0.102, 7


def keyword_spotter() -> SpikingGraph:
    """The published sizes, dense, with weights of 8 bits."""
    rng = np.random.default_rng(0)
    sizes = (390, 256, 256, 29)
    nodes: list = [("input", Input((390,), "spikes"))]
    for k, (before, after) in enumerate(itertools.pairwise(sizes)):
        weight = rng.integers(1, 127, (after, before)).astype(np.int32)
        weight[::2, ::2] *= -1
        nodes += [(f"d{k}", Linear(weight)), (f"n{k}", IF(1000))]
    return chain([*nodes, ("output", Output())], KEYWORDS_STEPS)


def timed_at(graph: SpikingGraph, rate: float) -> timing.TimedNetwork:
    """A placed dense network in which this share of neurons and inputs spikes in every step."""
    placement = place(graph, limits.target("loihi1"))
    layers = []
    for layer in placement.layers:
        fan_in = graph.synapses[layer.name].weight.shape[1]
        neurons = np.array([block.neurons for block in layer.blocks])
        shape = (1, graph.T, layer.cores)
        synops = np.broadcast_to(rate * fan_in * neurons, shape)
        spikes = np.broadcast_to(rate * neurons, shape)
        sent = np.array([float(layer.outgoing.feeds[block.slices].sum()) for block in layer.blocks])
        counts = {
            "synops": synops,
            "synops_conv": synops * 0,
            "synops_linear": synops,
            "messages_in": np.broadcast_to(rate * fan_in, shape),
            "spikes": spikes,
            "messages_out": np.broadcast_to(rate * sent, shape),
        }
        compartments = np.array([used.compartments for used in layer.usage])
        layers.append(timing.TimedLayer(layer.neurons_name, layer.first_core, compartments, counts))
    return timing.TimedNetwork("loihi1", placement.chips, graph.T, tuple(layers), tiles(placement), farthest(placement))


RATES = {"a": 0.165, "p": 0.235, "b": 0.104, "q": 0.226, "c": 0.432, "d": 0.103}
"""Firing rates of 2conv on MNIST behind each layer and pool, from docs/results/mnist-2conv-report.html."""


def two_convolutions() -> SpikingGraph:
    """C128-P-C128-P-FC1152-FC10 with random weights of 8 bits, none of them 0, as a chain."""
    rng = np.random.default_rng(0)

    def weights(*shape: int) -> np.ndarray:
        return (rng.integers(1, 127, shape) * rng.choice([-1, 1], shape)).astype(np.int32)

    pool = MaxPool2d((2, 2), (2, 2))
    nodes: list = [
        *(("input", Input((1, 28, 28), "direct", 255)), ("a", Conv2d(weights(128, 1, 3, 3), padding=(1, 1)))),
        *(
            ("a.if", IF(10_000)),
            ("p", pool),
            ("b", Conv2d(weights(128, 128, 3, 3), padding=(1, 1))),
            ("b.if", IF(1000)),
        ),
        *(("q", pool), ("flat", Flatten()), ("c", Linear(weights(1152, 6272))), ("c.if", IF(1000))),
        *(("d", Linear(weights(10, 1152))), ("d.if", IF(1000)), ("output", Output())),
    ]
    return to_chain(chain(nodes, 4))


def at_known_rates(samples: int = 4) -> None:
    """Latency, throughput, energy and critical core of 2conv under every model."""
    graph = two_convolutions()
    for chip in limits.targets().values():
        placement = fit.check(graph, chip).placement
        assert placement is not None
        torch.manual_seed(0)
        activity, cores = ActivityCounter(graph), CoreCounter(placement, graph)
        names = {name: name.removesuffix(".if").removesuffix(".or") for name in graph.neurons}
        spikes = {n: (torch.rand(4, samples, *graph.shapes[n]) < RATES[of]).float() for n, of in names.items()}
        pixels = (torch.rand(1, samples, 1, 28, 28) < 570 / 4 / 784).float()  # 570 events a sample, at every step
        for name, values in {"input": pixels, **spikes}.items():
            activity(name, values)
            cores(name, values)
        network = timed_network(placement, cores.result(), 4)
        assert network is not None
        counts = operations.snn_counts(activity.result())
        print(f"2conv on {chip.title}: {placement.cores} cores, {placement.chips} chips")
        for model in time_models.built_in().values():
            if model.target != chip.name:
                continue
            found = timing.estimate(model, network, counts, list(energy_models().values()))
            rate = span(Range(1 / found.period.high, 1 / found.period.nominal, 1 / found.period.low), "/s")
            print(
                f"  {model.name}: {span(found.latency, 's')} in {found.steps} steps, {rate}, core {found.core} {found.layer}"
            )
            for product in found.products:
                static = "with" if product.static else "without"
                print(
                    f"    {product.model}: {span(product.energy, 'J')}, {span(product.product, 'J·s')}, {static} static power"
                )


def main() -> None:
    """Print every pair with its error."""
    graph = keyword_spotter()
    print(f"keyword spotting (Blouw et al. 2018): measured {1e6 * KEYWORDS_STEP:.0f} µs per step")
    for name in ("loihi1-davies2018", "loihi1-sanafe-times"):
        model = time_models.built_in()[name]
        for rate in (0.0, 0.1, 1.0):
            found = timing.estimate(model, timed_at(graph, rate), Counts("snn", {}))
            low, high = KEYWORDS_STEP / found.step.high, KEYWORDS_STEP / found.step.low
            print(
                f"  {name}, {rate:.0%} firing: {spread(found.step, 's')}, measured is {low:.1f} to {high:.1f} times that"
            )
    static = energy_models()["loihi1-events"].constants["static"].joules
    power(static, "keyword spotting", KEYWORDS_STEP * KEYWORDS_STEPS, 1, KEYWORDS_JOULES)
    model = time_models.built_in()["loihi1-davies2018"]
    neurons, synapses = MNIST_NEURONS / MNIST_CORES, MNIST_CONNECTIONS / MNIST_CORES
    silent = neurons * model.constants["inactive"].seconds.low
    full = neurons * model.constants["active"].seconds.high + synapses * model.constants["synop"].seconds.high
    measured = MNIST_SECONDS / MNIST_STEPS
    print(
        f"MNIST (Rueckauer et al. 2022): measured {1e6 * measured:.1f} µs per step; {model.name} on {MNIST_CORES} equal cores "
        f"from {1e6 * silent:.2f} µs with no spike to {1e6 * full:.1f} µs with every neuron firing"
    )
    power(static, "MNIST", MNIST_SECONDS, 1, MNIST_JOULES)
    power(static, "CIFAR-10, MobileNet", CIFAR_SECONDS, CIFAR_CHIPS, CIFAR_JOULES)
    at_known_rates()


def power(static: Range, name: str, seconds: float, chips: int, joules: float) -> None:
    """Static power over the measured time beside the energy that was measured."""
    found = static * (seconds * chips)
    low, nominal, high = (100 * (value / joules - 1) for value in (found.low, found.nominal, found.high))
    print(
        f"  {name}: static power over the measured {1e3 * seconds:.2f} ms is {spread(found, 'J')}, measured in all "
        f"{1e3 * joules:.3f} mJ: {low:+.0f} % to {high:+.0f} %, nominal {nominal:+.0f} %"
    )


if __name__ == "__main__":
    main()
