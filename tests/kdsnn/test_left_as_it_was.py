"""What a program hands to a verb, and what is its own in this process, is afterwards as it was before."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn

import kdsnn
from kdsnn.data import DataSet
from kdsnn.train.calling import in_eval

SHAPE, T = (1, 8, 8), 3


@pytest.fixture(scope="module")
def data() -> DataSet:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (30, 1, 8, 8)).astype(np.uint8), np.arange(30) % 3
    return DataSet("few", x[:20], y[:20], x[20:], y[20:], classes=3)


def network() -> nn.Sequential:
    """A student in training mode but for one BatchNorm, which its user has frozen."""
    torch.manual_seed(0)
    parts = [layer.Conv2d(1, 4, 3), layer.BatchNorm2d(4), neuron.IFNode(), layer.Conv2d(4, 4, 3), layer.BatchNorm2d(4)]
    parts += [neuron.IFNode(), layer.Flatten(), layer.Linear(64, 3)]
    module = nn.Sequential(*parts)
    module[1].running_var.fill_(0.05)
    module[4].running_var.fill_(0.05)
    module.train()
    module[1].eval()
    return module


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """The module's modes, weights and membranes, and torch's random numbers and threads, are in the end what they were."""
    before = {name: value.clone() for name, value in module.state_dict().items()}
    modes = {name: part.training for name, part in module.named_modules()}
    drawn, threads = torch.random.get_rng_state(), torch.get_num_threads()
    yield
    assert {name: part.training for name, part in module.named_modules()} == modes
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(isinstance(part.v, float) for part in module.modules() if isinstance(part, neuron.IFNode))
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert torch.get_num_threads() == threads and torch.is_grad_enabled()


VERBS: dict[str, Callable[[nn.Module, DataSet], Any]] = {
    "lower": lambda net, data: kdsnn.lower(net, input_shape=SHAPE, T=T),
    "evaluate": lambda net, data: kdsnn.evaluate(net, data, T=T),
    "run": lambda net, data: kdsnn.run(net, data, on=["torch", "onnx"], samples=3, input_shape=SHAPE, T=T),
    "summary": lambda net, data: kdsnn.summary(net, input_shape=SHAPE, T=T),
    "profile": lambda net, data: kdsnn.profile(net, data, samples=3, input_shape=SHAPE, T=T),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_module_keeps_its_modes_and_weights(verb: str, data: DataSet) -> None:
    module = network()
    with untouched(module):
        VERBS[verb](module, data)


def test_training_leaves_the_teacher_and_what_torch_draws(data: DataSet) -> None:
    teacher = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
    student = network()
    with untouched(teacher):
        kdsnn.distill(student, data, teacher=teacher, T=T, epochs=1, batch_size=10)
        kdsnn.pretrain("cnn2", data, epochs=1, batch_size=10, options={"channels": (1, 1), "hidden": 2})


def test_a_module_that_trains_again_is_run_as_it_was_lowered(data: DataSet) -> None:
    module = network().eval()
    net = kdsnn.lower(module, input_shape=SHAPE, T=T)
    module.train()
    with untouched(module):
        assert kdsnn.run(net, data, on=["torch"], samples=10).ok


def test_threads_that_run_one_module_take_turns(data: DataSet) -> None:
    module = network()
    net = kdsnn.lower(module, input_shape=SHAPE, T=T)
    expected = kdsnn.evaluate(module, data, T=T).accuracies
    found: list[Any] = []
    work = [lambda: found.append(kdsnn.evaluate(module, data, T=T).accuracies == expected)] * 2
    work += [lambda: found.append(kdsnn.run(net, data, on=["torch"], samples=10).ok)] * 2
    with untouched(module):
        threads = [Thread(target=one) for one in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [True] * 4


def test_a_second_thread_waits_for_the_first() -> None:
    module, order = network(), []

    def second() -> None:
        with in_eval(module):
            order.append("second")

    with in_eval(module), in_eval(module):  # one thread may ask again
        thread = Thread(target=second)
        thread.start()
        thread.join(0.05)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_results_are_copied_and_pickled(data: DataSet) -> None:
    net = kdsnn.lower(network(), input_shape=SHAPE, T=T)
    for found in (net, kdsnn.check(net, "loihi1"), kdsnn.run(net, data, samples=2)):
        for again in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
            assert again.to_dict() == found.to_dict()
    assert net.graph == copy.deepcopy(net).graph or set(copy.deepcopy(net).graph.nodes) == set(net.graph.nodes)
