from __future__ import annotations

import inspect
import textwrap

import numpy as np
import profilers_example as example
import pytest
import torch

import profilers
from exporters.graph import IF, Conv2d, Input, Output, chain
from hardware import emulator
from profilers.counting.activity import ActivityCounter
from profilers.counting.conventions import by_every_convention


def test_every_convention_by_hand() -> None:
    """5×5 pixels → 1×1 encoder with weight 1 → 25 neurons → 3×3 convolution, stride 2, padded, one weight zero."""
    kernel = np.ones((2, 1, 3, 3))
    kernel[0, 0, 1, 1] = 0
    graph = chain(
        [
            ("in", Input((1, 5, 5))),
            ("a", Conv2d(np.ones((1, 1, 1, 1)))),
            ("n", IF(1.0)),
            ("b", Conv2d(kernel, None, (2, 2), (1, 1))),
            ("o", Output("membrane")),
        ],
        T=2,
    )
    counter = ActivityCounter(graph)
    image = torch.ones(1, 2, 1, 5, 5)
    image[0, 0, 0, 0] = 0  # the first sample lacks five pixels
    spikes = torch.zeros(2, 2, 1, 5, 5)
    spikes[0, :, 0, 0, 0] = 1  # a corner: seen by one window, through its center
    spikes[1, 1, 0, 1, 1] = 1  # between the windows: seen by four, through their corners
    counter("in", image)
    counter("n", spikes)
    found = {row.key: row.statistic for row in by_every_convention(counter.result())}
    assert {key: statistic.mean for key, statistic in found.items()} == pytest.approx(
        {
            "synops": (2 + (2 + 8)) / 2,
            "synops_nonzero": (1 + (1 + 8)) / 2,
            "rate_macs": (1 + 2) / 2 / 25 * (9 * 2 * 9),
            "synops_lemaire": (1 + 2) / 2 * 2 * 2 * 2,
            "spikes": 1.5,
            "macs_once": 25,
            "macs_repeated": 50,
            "effective_macs": 2 * (20 + 25) / 2,
            "neuron_updates": 50,
            "dense_macs": 25 + 162,
        }
    )
    assert found["synops"].std == 4
    assert (found["synops"].low, found["synops"].high) == (2, 10)
    assert found["neuron_updates"].std == 0


def test_the_three_lines_of_the_package_work() -> None:
    """The code in the package's description, as it stands there."""
    documentation = inspect.getdoc(profilers)
    assert documentation is not None
    lines = [line for line in documentation.splitlines() if line.startswith("    ")]
    graph = example.network()
    rng = np.random.default_rng(0)
    x, labels = rng.random((20, 1, 8, 8)), rng.integers(0, 10, 20)
    names = {"graph": graph, "x": x, "labels": labels}
    exec(textwrap.dedent("\n".join(lines)), names)
    counter = ActivityCounter(graph)
    outcome = emulator.run(graph, graph.encode(x), observe=counter)
    assert names["run"].synops.mean == pytest.approx(counter.result().synops.sum(axis=1).mean())
    assert names["run"].accuracy == outcome.accuracy(labels)
    assert len(names["report"].energies) == len({model.name for model in names["report"].energies}) >= 18


def test_the_package_offers_nothing_else() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        profilers.nonsense  # noqa: B018
