"""The table of formats: every entry writes, checks and reads, and asking for it loads nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from exporters.errors import DeployError
from exporters.formats import FORMATS
from exporters.graph import IF, Input, Linear, Output, SpikingGraph, chain
from hardware.emulator import run
from tests.networks import random_integer_chain


@pytest.mark.parametrize("name", FORMATS)
def test_what_an_entry_writes_is_sound_and_reads_back(tmp_path: Path, name: str) -> None:
    entry, graph = FORMATS[name], random_integer_chain(4)
    path = entry.write(graph, tmp_path / f"network{entry.suffix}")
    assert path.is_file() and entry.name == name and entry.check(path) == []
    if entry.read is not None:
        x = np.random.default_rng(0).integers(0, 256, (3, *graph.input.shape)).astype(np.float32)
        np.testing.assert_array_equal(run(entry.read(path), x).output, run(graph, x).output)


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_no_file_of_the_format_is_found(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"network{FORMATS[name].suffix}"
    path.write_text("hello")
    (finding,) = FORMATS[name].check(path)
    assert path.name in finding and "\n" not in finding


@pytest.mark.parametrize("name", FORMATS)
def test_only_some_take_float_networks(tmp_path: Path, name: str) -> None:
    graph: SpikingGraph = chain([("in", Input((2,))), ("fc", Linear(np.eye(2))), ("s", IF(0.5)), ("out", Output())], 2)
    path = tmp_path / f"network{FORMATS[name].suffix}"
    if not FORMATS[name].integers_only:
        assert FORMATS[name].check(FORMATS[name].write(graph, path)) == []
        return
    with pytest.raises(DeployError, match="only a quantized"):
        FORMATS[name].write(graph, path)


def test_asking_the_table_loads_nothing_heavy() -> None:
    code = (
        "import sys; from exporters.formats import FORMATS; assert len(FORMATS) == 3\n"
        "heavy = {'numpy', 'h5py', 'onnx', 'nir', 'torch'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
