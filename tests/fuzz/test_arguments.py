"""`import kdsnn`: every verb with arguments of the types that it says, and values that nobody would expect."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn

import kdsnn
from exporters.passes.chain import to_chain
from tests.fuzz.harness import for_seeds, memory_limited, tried, untouched
from tests.fuzz.mutation import FLOATS, TEXTS
from tests.networks import random_dense_time, random_recurrent

EXAMPLES = {
    "load": 10, "load_data": 15, "lower": 25, "check": 10, "summary": 10, "evaluate": 12, "run": 8, "predict": 12, "export": 6, "profile": 3,
    "benchmark": 3, "pretrain": 8, "distill": 8,
}  # fmt: skip
INTEGERS = (-1, 0, 1, 2, 3, 4, 8, 9, 33, -(2**63), 2**31, 10**30, np.int64(2), True)


def network(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(layer.Flatten(), *layers).eval()


@cache
def sources(folder: Path) -> tuple[Any, ...]:
    """What `lower` may be given: sound, of a kind that some verbs do not take, or no network at all."""
    return (
        folder / "snn.safetensors", folder / "snn.safetensors", folder / "ann.safetensors", kdsnn.load(folder / "snn.safetensors"),
        kdsnn.load(folder / "ann.safetensors"), kdsnn.lower(folder / "snn.safetensors"), random_recurrent(1), to_chain(random_dense_time(2)),
        network(layer.Linear(64, 10), neuron.IFNode()), network(layer.Linear(64, 10)), network(nn.ReLU()), nn.Identity(), "no:such", "math:pi", "",
        "torch.nn:Identity", folder, folder / "missing.nir", folder / "text.net", Path("/dev/null"), "cnn2", "x" * 5000,
    )  # fmt: skip


@pytest.fixture(scope="module")
def inputs(student: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    for path in (student, teacher):
        (folder / path.name).write_bytes(path.read_bytes())
    for ending in ("net", "json", "png"):
        (folder / f"text.{ending}").write_text("hello")
    np.save(folder / "image.npy", np.zeros((8, 8), np.uint8))
    return folder


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with memory_limited(2 << 30):
        yield


def data(rng: Random) -> Any:
    numbers = np.random.default_rng(0)
    x, y = numbers.integers(0, 256, (20, 1, 8, 8), dtype=np.uint8), np.arange(20) % 10
    pair, four = (x, y), (x, y, x[:10], y[:10])
    odd = (
        (x[:, :, :4], y), (x[:0], y[:0]), (x, y[:5]), (x.repeat(3, axis=1), y), ((x[:, None] > 99).astype(np.uint8), y), (x / 255, y), (x, y * 0),
        "digits+none", "npz:missing.npz", "", Path("nowhere"), None, [], ((x, y), (x, y)), (x * np.nan, y), [(one, 0) for one in torch.rand(9, 1, 8, 8)],
    )  # fmt: skip
    return rng.choice((pair, four, four, four, *odd))


def value(name: str, annotation: str, rng: Random, folder: Path) -> Any:
    """A value of an argument, by its name, else by its type."""
    network_wanted = name in ("source", "teacher", "twin", "start", "init") and "bool" not in annotation
    text = rng.choice([t for t in TEXTS if "\n" not in t])
    choices: dict[str, tuple[Any, ...]] = {
        "model": ("cnn2", "cnn2", "cnn2", "vgg11", "CNN2", "", nn.Identity(), network(layer.Linear(64, 10), neuron.IFNode())),
        "files": (folder / "image.npy", [folder / "image.npy"] * 2, folder / "text.png", [], "", folder, [folder / "missing.npy", folder / "image.npy"]),
        "path": (folder / "snn.safetensors", folder / "ann.safetensors", folder / "text.net", "missing.safetensors", "", folder),
        "to": (["onnx"], ["netx", "nir"], [], ["onnx", "x"], "onnx", ["sanafe"], ("nir", "nir")),
        "form": (["step"], ["loop", "sequence"], [], ["x"], "loop"),
        "on": ("torch", "emulator", "onnx", "x", "", "Torch")
        if "Sequence" not in annotation
        else (["torch"], ["emulator"], ["onnx", "torch"], [], ["x"], "x", ["torch", "torch"]),
        "target": ("loihi1", "loihi2", "loihi3", "", str(folder / "text.json"), "x" * 300),
        "out": ("out.safetensors", "out", folder / "text.net" / "x", "", "/dev/null/x", "..", "a" * 300),
        "options": ({"channels": (2, 2)}, {"channels": 0}, {"x": 1}, {"hidden": -1}, {"channels": (2,)}, {}, {"hidden": 2**40}, {"channels": "2,2"}),
        "nir": ({"dt": 1e-3}, {"dt": 0}, {"dt": math.nan}, {"reset": "soft"}, {"x": 1}, {}),
        "neuron_as": ({"a": "if"}, ["x"], {}, ["a=b"]), "normalize": ("imagenet", ((0.5,), (0.5,)), ((0.5,), (0,)), "x", ((), ()), ((math.nan,), (1,))),
        "augmentation": ({"crop": 1}, {"x": 1}, {}, {"shift": -1}), "taps": ("x", {"a": "b"}, {}), "seeds": ("0-1", "x", [], [0, 0], "1-0", [-1]),
        "input_shape": ((1, 8, 8), (64,), (), (0, 8, 8), (-1,), (1, 8), (1, 2**20, 2**20), (10**30,), (1.5, 8, 8)), "image_size": (8, (8, 8), 0, -1, (8,), 2**40),
        "seconds_per_image": (1e-3, "1e-3", (1, 2, 3), 0, -1, "x", (3, 2, 1), math.nan, ()), "bits": (2, 4, 8, 1, 9, 0, -1, 10**30, True),
        "output": (0, -1, "x", 9), "T": (1, 2, 0, -1, 10**30, 2**31), "timesteps": (1, 2, "1-2", 0, "x", []), "epochs": (1, 0, -1), "processes": (1, 0, -1),
        "settings": ({}, {"x": 1}), "samples": (1, 2, 5, 0, -1, 10**30), "repeats": (1, 2, 0, -1), "seconds": (0.01, 0, -1, math.nan), "val": (0.1, 0.5, 0, 1, -1, math.nan, math.inf),
        "device": ("cpu", "cuda", "x", "", "cpu:7", "meta"), "timeout": (1.0, 0, -1, math.nan), "calibrate": (), "tensorboard": (None,), "qann": sources(folder),
        "energy_model": ([folder / "text.json"], [], "", [folder]), "time_model": ([folder / "text.json"], [], [""]), "save": ("spikes.npz", "", "/dev/null/x", folder),
    }  # fmt: skip
    choices |= {
        "timesteps": choices["timesteps"],
        "seconds_per_step": choices["seconds_per_image"],
        "weights": choices["path"],
        "teacher_weights": choices["path"],
    }
    trained = (str, Path, kdsnn.TrainedNetwork, *([nn.Module] if "Module" in annotation else []))
    networks = [one for one in sources(folder) if "Source" in annotation or isinstance(one, trained)]
    named = networks if network_wanted else choices.get(name, ())
    if name in ("data", "calibrate", "test"):
        return data(rng)
    if named:
        chosen = rng.choice(named)
        return [chosen] if name == "target" and "Sequence" in annotation else chosen
    if "Literal" in annotation or annotation.split(" |")[0] in (
        "Optimizer",
        "Schedule",
        "Precision",
        "Method",
        "Readout",
        "Neuron",
        "Reset",
        "TeacherFrames",
        "InputCoding",
    ):
        words = ("adamw", "sgd", "cosine", "step", "bf16", "fp32", "response", "none", "feature", "temporal", "rate", "membrane", "voting", "if", "lif", "hard", "soft",
                 "mean", "each", "pixels", "spikes", "frames", "host", "chip", text)  # fmt: skip
        return rng.choice(words)
    if "bool" in annotation:
        return rng.random() < 0.5
    if "int" in annotation:
        return rng.choice(INTEGERS)
    if "float" in annotation:
        return rng.choice((*FLOATS, 0.1, 1, 0, np.float32(0.5)))
    return text


ALWAYS: dict[str, dict[str, Callable[[Random, Path], Any]]] = {
    "pretrain": {"options": lambda rng, _: {"channels": (2, 2), "hidden": 4}, "epochs": lambda *_: 1, "data": lambda rng, _: data(rng)},
    "distill": {"options": lambda rng, _: {"channels": (2, 2), "hidden": 4}, "epochs": lambda *_: 1, "data": lambda rng, _: data(rng), "T": lambda *_: 2, "teacher": lambda rng, folder: rng.choice((folder / "ann.safetensors", folder / "ann.safetensors", None))},
    "evaluate": {"data": lambda rng, _: data(rng)}, "run": {"data": lambda rng, _: data(rng)},
    "profile": {"data": lambda rng, _: data(rng), "samples": lambda *_: 2},
    "benchmark": {"data": lambda rng, _: data(rng), "samples": lambda *_: 2, "repeats": lambda *_: 1, "seconds": lambda *_: 0.01},
}  # fmt: skip
"""Whatever else is drawn, an accepted run is short."""


def arguments(verb: str, rng: Random, folder: Path) -> dict[str, Any]:
    parameters = inspect.signature(getattr(kdsnn, verb)).parameters
    lowering = inspect.signature(kdsnn.lower).parameters if "lowering" in parameters else {}
    own = ("progress", "lowering", "settings", "command", "written", "simulate", "stock_lava")
    known = {name: p for name, p in {**lowering, **parameters}.items() if name not in own}
    needed = [name for name, p in parameters.items() if p.default is p.empty and name in known]
    found = {name: make(rng, folder) for name, make in ALWAYS.get(verb, {}).items()}
    optional = sorted(set(known) - set(needed))
    for name in [*needed, *rng.sample(optional, min(len(optional), rng.randint(0, 3)))]:
        if name in found and rng.random() < 0.8:
            continue
        found[name] = value(name, str(known[name].annotation), rng, folder)
    return found


@pytest.mark.parametrize("verb", EXAMPLES)
def test_any_arguments_give_a_result_or_one_line(verb: str, inputs: Path) -> None:
    def holds(rng: Random) -> None:
        given_ = arguments(verb, rng, inputs)
        try:
            with untouched(inputs):
                tried(f"arguments of {verb}", lambda: str(getattr(kdsnn, verb)(**given_)))
        except BaseException as error:
            error.add_note(f"kdsnn.{verb}(**{given_!r:.1000})")
            raise

    for_seeds(EXAMPLES[verb], holds)


def test_every_verb_is_called() -> None:
    verbs = {name for name in kdsnn.__all__ if name.islower()}
    assert set(EXAMPLES) == verbs - {"demo"}
