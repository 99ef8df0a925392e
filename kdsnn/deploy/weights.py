"""State dicts as people save them: inside a training checkpoint, with the prefixes of wrappers, beside an optimizer."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsnn.errors import OptionError

if TYPE_CHECKING:
    from torch import nn

ENVELOPES = ("state_dict", "model_state_dict", "net", "model", "params")
"""Keys under which a training checkpoint holds its weights, the ones that leave less doubt first."""

WRAPPERS = frozenset({"module", "_orig_mod"})
"""What `DataParallel` and `torch.compile` put into the names of weights."""

COUNTER = "num_batches_tracked"
"""What torch adds itself to the weights of a BatchNorm that is older than this counter."""

DEPTH = 4
"""Dicts inside dicts that are looked into."""

SHOWN = 3
"""Names of weights that a message lists."""

SAVE = "load it where it was made and save its state dict alone: torch.save(model.state_dict(), 'weights.pt')"


def load_weights(module: nn.Module, path: Path, option: str) -> None:
    """Load a state dict into a module, in place. A `.pt` file is read without running anything that is pickled in it.

    Args:
        module: of the user's own.
        path: `.safetensors`, or what `torch.save` wrote: a state dict, or a dict that holds one as `ENVELOPES` say. Names may
            hold what wrappers add (`WRAPPERS`), or lack it.
        option: what the file is called in a message.

    Raises:
        OptionError: no such file, no state dict, weights of another network, or NaN among them; in one line.
    """
    if not path.is_file():
        raise OptionError(f"{{{option}}}: no such file", **{option: path})
    try:
        state = _fitted(_state_in(_read(path)), module)
        _require_same(state, module)
        module.load_state_dict(state)
    except _UnusableError as error:
        raise OptionError(f"{{{option}}}: {error}", **{option: path}) from error
    except Exception as error:  # an own load_state_dict, hooks, quantized and lazy modules raise what they like
        reason = " ".join(str(error).split())[:300]
        raise OptionError(f"{{{option}}}: not a state dict of this network ({reason})", **{option: path}) from error
    _recompute(module)


class _UnusableError(Exception):
    """Why a file gives a network no weights: the rest of a sentence."""


def _read(path: Path) -> Any:
    import torch
    from safetensors.torch import load_file

    if _is_script(path):
        raise _UnusableError(f"not a state dict but a TorchScript program; {SAVE}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, zipfile, pickle and torch raise a dozen unrelated types
        text = str(error)
        held = re.search(r"GLOBAL ([\w.]+)|the ([\w.]+) global|class ([\w.]+)", text)
        if path.suffix != ".safetensors" and held and "weights_only" in text:
            name = next(group for group in held.groups() if group)
            raise _UnusableError(
                f"not a state dict: it holds a pickled {name}, and reading that would run code; {SAVE}"
            ) from error
        # torch's advice, in color and over several lines, is about options that nobody has here
        first = (re.sub(r"\x1b\[[\d;]*m", "", text).strip().splitlines() or [""])[0][:200]
        reason = first if " " in first else type(error).__name__
        raise _UnusableError(
            f"not a state dict of this network: the file cannot be read ({reason}); copy it again, or {SAVE}"
        ) from error


def _is_script(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("constants.pkl") for name in archive.namelist())


def _state_in(read: Any, depth: int = DEPTH) -> Mapping[str, Any]:
    """The state dict in what a file held: itself, or what lies in one of `ENVELOPES`.

    Raises:
        _UnusableError: there is none.
    """
    import torch

    if not isinstance(read, Mapping):
        raise _UnusableError(f"not a state dict but a {type(read).__name__}; {SAVE}")
    if any(isinstance(value, torch.Tensor) for value in read.values()):
        return {str(name): value for name, value in read.items()}
    for name in ENVELOPES:
        inner = read.get(name)
        if isinstance(inner, Mapping) and inner and depth:
            return _state_in(inner, depth - 1)
    raise _UnusableError(
        f"no weights in it: it holds {_some(map(str, read)) or 'nothing'}, and none of {', '.join(ENVELOPES)} with weights; {SAVE}"
    )


def _fitted(state: Mapping[str, Any], module: nn.Module) -> Mapping[str, Any]:
    """The state with its names as the module has them, whichever of the two was wrapped when it was saved."""
    expected = module.state_dict().keys()
    if state.keys() <= expected:
        return state
    ours, theirs = ({_bare(name): name for name in names} for names in (expected, state))
    if len(ours) < len(expected) or len(theirs) < len(state):  # two names of one wrapper apart
        return state
    own, held = _in_one_place(ours, theirs)
    return {own.get(bare, bare): state[name] for bare, name in held.items()}


def _in_one_place(ours: Mapping[str, str], theirs: Mapping[str, str]) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Both without what stands before all names of one of them, if they are the same names then: a training program that holds the
    network as its `model` saves it so."""
    if ours.keys() == theirs.keys():
        return ours, theirs
    inner, others = ours, theirs
    for _ in range(DEPTH):
        inner, others = _inside(inner), _inside(others)
        for a, b in ((ours, others), (inner, theirs)):
            if _counted(a) == _counted(b):
                return a, b
    return ours, theirs


def _inside(names: Mapping[str, str]) -> Mapping[str, str]:
    """The names without their first part, if it is the same in all; else none."""
    if len({name.partition(".")[0] for name in names}) != 1 or not all("." in name for name in names):
        return {}
    return {name.partition(".")[2]: whole for name, whole in names.items()}


def _counted(names: Iterable[str]) -> set[str]:
    """The names without those of counters, which old files have not."""
    return {name for name in names if not name.endswith(COUNTER)}


def _bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _require_same(state: Mapping[str, Any], module: nn.Module) -> None:
    """Compare names, shapes and values before torch does, which tells every difference in a line of its own.

    Raises:
        _UnusableError: they are of another network.
    """
    import torch

    expected: Mapping[str, Any] = module.state_dict()
    missing = [name for name in expected if name not in state and not name.endswith(COUNTER)]
    others = [name for name in state if name not in expected]
    if missing or others:
        told = [f"{len(missing)} weights of the network are missing in it ({_some(missing)})"] if missing else []
        told += [f"{len(others)} in it are not the network's ({_some(others)})"] if others else []
        raise _UnusableError(f"not a state dict of this network: {', '.join(told)}; {_hint(missing, others)}")
    for name, value in state.items():
        own = expected[name]
        if not isinstance(value, torch.Tensor) or not isinstance(own, torch.Tensor) or torch.nn.parameter.is_lazy(own):
            continue
        if value.shape != own.shape:
            raise _UnusableError(
                f"not a state dict of this network: {name} has the shape {tuple(value.shape)} in it and "
                f"{tuple(own.shape)} in the network; build the network as it was trained"
            )
        if own.is_floating_point() and not value.is_floating_point():
            raise _UnusableError(
                f"{name} holds {str(value.dtype).removeprefix('torch.')} in it, and the network's are floats; save the weights as they "
                "were trained, before they were quantized"
            )
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise _UnusableError(
                f"{name} is NaN or infinite; take an earlier checkpoint, or train again with a lower rate"
            )


def _hint(missing: list[str], others: list[str]) -> str:
    pruned = {name.removesuffix("_orig") for name in others if name.endswith("_orig")}
    if pruned & set(missing):
        return "it was saved of a pruned network: prune in the factory too, or make it permanent with prune.remove"
    return "build the network as it was trained"


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join([name[:80] for name in listed[:SHOWN]] + ["…"] * (len(listed) > SHOWN))


def _recompute(module: nn.Module) -> None:
    """Bring weights up to date that are computed of others before every forward: pruned and normalized ones."""
    from torch.nn.utils.prune import BasePruningMethod
    from torch.nn.utils.spectral_norm import SpectralNorm
    from torch.nn.utils.weight_norm import WeightNorm

    for part in module.modules():
        for hook in part._forward_pre_hooks.values():
            if isinstance(hook, BasePruningMethod | WeightNorm | SpectralNorm):
                hook(part, ())
