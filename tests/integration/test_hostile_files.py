"""`kdsnn-deploy run` and `export` on damaged, hostile and senseless networks: one line and exit code 2, never a traceback."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporters import netx
from exporters.graph import IF, Conv2d, Flatten, Input, Linear, Output, chain
from tests.integration.test_cli import cli, error_line


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that runs on the built-in digits."""
    rng = np.random.default_rng(0)
    graph = chain(
        [("in", Input((1, 8, 8), scale=255)), ("c", Conv2d(rng.integers(-40, 60, (2, 1, 3, 3)).astype(np.int32))), ("s", IF(9000)),
         ("flat", Flatten()), ("fc", Linear(rng.integers(-40, 60, (10, 72)).astype(np.int32), np.arange(10, dtype=np.int32))),
         ("o", IF(90)), ("out", Output())],
        3,
    )  # fmt: skip
    path = netx.write(graph, tmp_path_factory.mktemp("sound") / "sound.net")
    assert json.loads(cli("run", path, "--samples", 2, "--json").stdout)["runs"][0]["samples"] == 2
    return path


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_truncated_and_flipped_netx_files(sound: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(sound.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        for bit in data.draw(st.sets(st.integers(0, 8 * len(content) - 1), min_size=1, max_size=3)):
            content[bit // 8] ^= 1 << bit % 8
    hurt = tmp_path / "hurt.net"
    hurt.write_bytes(content)
    shutil.copy(netx.sidecar_path(sound), netx.sidecar_path(hurt))
    assert "hurt.net" in error_line("run", hurt, "--samples", 1)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_truncated_and_flipped_sidecars(sound: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(netx.sidecar_path(sound).read_bytes().rstrip())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    copy = tmp_path / "copy.net"
    shutil.copy(sound, copy)
    netx.sidecar_path(copy).write_bytes(content)
    whole = cli_result("run", copy, "--samples", 1, "--json")
    if whole is None:
        return
    # a flip may hit a blank between the facts, which changes none
    assert json.loads(content) == json.loads(netx.sidecar_path(sound).read_text())


def cli_result(*arguments: object) -> str | None:
    """What a command prints, or None where it ends with one line of error."""
    try:
        return cli(*arguments).stdout
    except AssertionError:
        error_line(*arguments)
        return None


def replace(file: h5py.File, key: str, value: object) -> None:
    del file[key]
    file[key] = value


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda f: replace(f, "layer/1/neuron/vThMant", -1), "vThMant -1"),
        (lambda f: replace(f, "layer/1/neuron/vThMant", -(2**40)), "vThMant -1099511627776"),
        (lambda f: replace(f, "layer/1/weight", f["layer/1/weight"][()] * np.nan), "NaN"),
        (lambda f: replace(f, "layer/1/weight", f["layer/1/weight"][()] + np.inf), "infinite"),
        (lambda f: replace(f, "layer/3/bias", np.full(10, np.nan)), "NaN"),
        (lambda f: replace(f, "layer/3/weight", np.zeros((0, 72))), "the weight has shape"),
        (lambda f: replace(f, "layer/3/weight", np.ones((10, 7), np.float32)), "expects 7 inputs"),
        (lambda f: replace(f, "layer/0/shape", [0, 8, 8]), "input shape"),
        (lambda f: replace(f, "layer/0/shape", [2**40, 2**40, 2**40]), "expects 1 input channels"),
        (lambda f: replace(f, "layer/1/stride", "x"), "layer 1|damaged"),
        (lambda f: replace(f, "layer/1/neuron/iDecay", np.nan), "iDecay"),
        (lambda f: [f.pop(f"layer/{i}") for i in range(4)], "no 'layer' group"),
        (lambda f: [f.pop(f"layer/{i}") for i in (1, 2, 3)], "no conv or dense layer"),
        (lambda f: f.pop("layer"), "no 'layer' group"),
    ],
)  # fmt: skip
def test_senseless_netx_files(sound: Path, tmp_path: Path, change: Callable[[h5py.File], object], line: str) -> None:
    """Without a sidecar nothing says what the file was; its own numbers must give it away."""
    path = tmp_path / "x.net"
    shutil.copy(sound, path)
    with h5py.File(path, "r+") as file:
        change(file)
    import re

    assert re.search(line, error_line("run", path, "--timesteps", 2, "--samples", 1))


@pytest.mark.parametrize("steps", [0, -3, 10**12])
def test_senseless_time_steps(sound: Path, tmp_path: Path, steps: int) -> None:
    path = tmp_path / "x.net"
    shutil.copy(sound, path)
    done = cli("run", path, "--timesteps", steps, "--samples", 1, code=2)
    assert "Traceback" not in done.stderr and "steps" in done.stderr


NETWORKS = """
    import torch
    from spikingjelly.activation_based import functional, layer, neuron
    from torch import nn

    def build(threshold=1.0, weight=0.3, layers=True, **extra):
        parts = [layer.Conv2d(1, 2, 3), neuron.IFNode(v_threshold=threshold, **extra), layer.Flatten(), layer.Linear(72, 10)]
        net = nn.Sequential(*(parts if layers else []))
        for p in net.parameters():
            nn.init.constant_(p, weight)
        functional.set_step_mode(net, "m")
        return net

    def fine(): return build()
    def zero_threshold(): return build(threshold=0.0)
    def negative_threshold(): return build(threshold=-1.0)
    def nan_threshold(): return build(threshold=float("nan"))
    def nan(): return build(weight=float("nan"))
    def inf(): return build(weight=float("inf"))
    def zeros(): return build(weight=0.0)
    def nothing(): return build(layers=False)
    def reset_elsewhere(): return build(v_reset=-0.5)
    def number(): return 3
    def broken(): raise RuntimeError("two\\nlines")
"""


@pytest.mark.parametrize(
    ("factory", "line"),
    [
        ("zero_threshold", "threshold is 0.0"), ("negative_threshold", "threshold is -1.0"), ("nan_threshold", "threshold is nan"),
        ("nan", "NaN or infinite"), ("inf", "NaN or infinite"), ("zeros", "all its weights are zero"),
        ("nothing", "analog arrives"), ("reset_elsewhere", "v_reset is -0.5"), ("number", "returned a int"),
        ("broken", "two lines"), ("missing", "has no attribute"),
    ],
)  # fmt: skip
def test_senseless_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factory: str, line: str) -> None:
    (tmp_path / "hostile_networks.py").write_text(textwrap.dedent(NETWORKS))
    monkeypatch.syspath_prepend(tmp_path)
    arguments = ["--input-shape", "1,8,8", "--timesteps", 2]
    out = tmp_path / "out"
    assert line in error_line("export", f"hostile_networks:{factory}", "--to", "netx", "--out", out, *arguments)
    assert not out.exists() or not list(out.iterdir())
    assert line in error_line("run", f"hostile_networks:{factory}", "--samples", 1, *arguments)
