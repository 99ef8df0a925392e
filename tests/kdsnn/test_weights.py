"""State dicts as people save them, and factories that still import SpikingJelly by its old name."""

import argparse
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from spikingjelly.activation_based import layer, neuron
from torch import nn
from torch.nn.utils import prune

from kdsnn.deploy.factory import module_of
from kdsnn.deploy.weights import load_weights
from kdsnn.errors import KdsnnError, Notice, OptionError
from kdsnn.factory import made_by


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        layer.Conv2d(1, 4, 3),
        layer.BatchNorm2d(4),
        neuron.IFNode(),
        layer.Flatten(),
        layer.Linear(144, 4),
        neuron.IFNode(),
    )


def loaded(path, state, module=None):
    torch.save(state, path)
    module = network(1) if module is None else module
    load_weights(module, path, "weights")
    return module


def same(module, state):
    return all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


SHAPES = {
    "bare": lambda s: s,
    "net": lambda s: {"net": s, "optimizer": {"state": {}, "lr": 0.1}, "epoch": 3},
    "state_dict": lambda s: {"epoch": 3, "state_dict": s},
    "model": lambda s: {"model": s, "scheduler": {"last_epoch": 1}},
    "model_state_dict": lambda s: {"model_state_dict": s, "optimizer_state_dict": {"state": {}}},
    "params": lambda s: {"params": s},
    "nested": lambda s: {"state_dict": {"model": s}},
    "data parallel": lambda s: {f"module.{k}": v for k, v in s.items()},
    "compiled": lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
    "both": lambda s: {"net": {f"module._orig_mod.{k}": v for k, v in s.items()}},
    "inside what trained it": lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}, "epoch": 3},
    "two names inside": lambda s: {f"learner._orig_mod.net.{k}": v for k, v in s.items() if not k.endswith("tracked")},
    "a compiled part": lambda s: {k.replace("4.", "4._orig_mod."): v for k, v in s.items()},
    "of an older BatchNorm": lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_a_state_dict_is_found_wherever_it_lies(tmp_path, shape):
    state = network().state_dict()
    assert not same(network(1), state)
    assert same(loaded(tmp_path / "w.pt", shape(state)), state)


def test_a_factory_may_wrap_what_was_saved_bare_and_have_a_part_named_module(tmp_path):
    wrapped = nn.DataParallel(network(1))
    state = network().state_dict()
    assert same(loaded(tmp_path / "w.pt", state, wrapped).module, state)

    class Own(nn.Module):
        def __init__(self, seed):
            super().__init__()
            self.module = network(seed)

    inner = nn.ModuleDict({"net": network(1)})
    assert same(loaded(tmp_path / "i.pt", state, inner)["net"], state)

    assert same(loaded(tmp_path / "o.pt", Own(0).state_dict(), Own(1)), Own(0).state_dict())
    assert same(
        loaded(tmp_path / "p.pt", {f"module.{k}": v for k, v in Own(0).state_dict().items()}, Own(1)),
        Own(0).state_dict(),
    )


def test_safetensors_and_the_old_format_of_torch(tmp_path):
    state = network().state_dict()
    save_file({f"module.{k}": v for k, v in state.items()}, tmp_path / "w.safetensors")
    module = network(1)
    load_weights(module, tmp_path / "w.safetensors", "weights")
    assert same(module, state)
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    module = network(1)
    load_weights(module, tmp_path / "old.pth", "weights")
    assert same(module, state)


def with_nan(state):
    return {**state, "4.weight": torch.full_like(state["4.weight"], torch.nan)}


REFUSED = {
    "a whole module": (lambda s: network(), r"it holds a pickled torch\.nn\.modules\.container\.Sequential.*state_dict\(\), "),
    "arguments beside it": (lambda s: {"net": s, "args": argparse.Namespace(lr=1)}, r"a pickled argparse\.Namespace"),
    "missing": (lambda s: {"net": dict(list(s.items())[2:])}, r"2 weights of the network are missing in it \(0\.weight, 0\.bias\)"),
    "others": (
        lambda s: s | {f"head.{i}": torch.ones(1) for i in range(5)},
        r"5 in it are not the network's \(head\.0, head\.1, head\.2, …\)",
    ),
    "another shape": (lambda s: s | {"4.weight": torch.ones(4, 10)}, r"4\.weight has the shape \(4, 10\) in it and \(4, 144\)"),
    "a teacher beside it": (
        lambda s: {f"{part}.{k}": v for part in ("student", "teacher") for k, v in s.items()},
        r"8 weights of the network are missing in it .* 18 in it are not the network's",
    ),
    "whole numbers": (lambda s: s | {"4.weight": s["4.weight"].char()}, r"4\.weight holds int8 in it, .* before they were quantized"),
    "NaN": (with_nan, r"4\.weight is NaN or infinite"),
    "no weights": (lambda s: {"epoch": 3, "lr": 0.1}, "no weights in it: it holds epoch, lr, and none of state_dict, "),
    "a list": (lambda s: [1, 2], "not a state dict but a list"),
    "nothing": (lambda s: {}, "no weights in it: it holds nothing"),
}  # fmt: skip


@pytest.mark.parametrize(("saved", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_state_dict_of_the_network_is_one_clean_line(tmp_path, saved, message):
    module = network(1)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(OptionError, match=message) as caught:
        loaded(tmp_path / "w.pt", saved(network().state_dict()), module)
    text = str(caught.value)
    assert text.startswith(f"weights={tmp_path / 'w.pt'}: ") and text.isprintable() and len(text) < 500
    assert same(module, before)


@pytest.mark.parametrize("content", [b"", b"hello" * 50, b"PK\x03\x04 cut off", b"\x80\x02]q"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_damaged_file_is_one_clean_line(tmp_path, content, suffix):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(OptionError, match="not a state dict of this network: the file cannot be read") as caught:
        load_weights(network(), path, "weights")
    assert str(caught.value).isprintable()


def test_a_program_is_no_state_dict(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "w.pt")
    with pytest.raises(OptionError, match="not a state dict but a TorchScript program"):
        load_weights(network(), tmp_path / "w.pt", "weights")


def test_pruned_weights_are_those_that_were_loaded(tmp_path):
    def pruned(seed):
        module = network(seed)
        prune.l1_unstructured(module[4], "weight", amount=0.5)
        return module

    saved = pruned(0)
    module = loaded(tmp_path / "w.pt", saved.state_dict(), pruned(1))
    assert torch.equal(module[4].weight, saved[4].weight) and bool((module[4].weight == 0).float().mean() == 0.5)
    with pytest.raises(OptionError, match=r"missing in it \(4\.weight\).* prune in the factory too"):
        loaded(tmp_path / "w.pt", saved.state_dict())


def test_that_no_weights_were_given_is_said_where_they_matter(tmp_path, monkeypatch):
    (tmp_path / "h5nets.py").write_text("from torch import nn\ndef build(): return nn.Linear(2, 2)\n")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(Notice, match="h5nets:build has the weights that its factory gives it: random ones, unless"):
        module = module_of("h5nets:build")
    torch.save(module.state_dict(), "w.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module_of("h5nets:build", "w.pt")
        module_of("h5nets:build", trained=False)


@pytest.mark.parametrize(
    "line", ["from spikingjelly.clock_driven import neuron", "from spikingjelly import clock_driven", "import spikingjelly.clock_driven.layer"]
)  # fmt: skip
def test_spikingjellys_old_name_is_explained(tmp_path, monkeypatch, line):
    name = f"old{abs(hash(line))}"
    (tmp_path / f"{name}.py").write_text(f"{line}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        KdsnnError, match=r"clock_driven, which SpikingJelly has called spikingjelly\.activation_based since"
    ):
        made_by(f"{name}:build")


def test_what_the_docs_say_has_kept_its_name_has():
    from spikingjelly.activation_based import functional

    assert all(hasattr(layer, name) for name in ("SeqToANNContainer", "Dropout"))
    assert all(hasattr(functional, name) for name in ("seq_to_ann_forward", "reset_net"))
    assert np.isclose(neuron.LIFNode().tau, 2.0) and neuron.LIFNode().decay_input
