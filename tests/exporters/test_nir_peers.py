"""Files that other frameworks' exporters wrote, with the spikes that the frameworks gave (made by benchmarks/nir_peers.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporters import nir as door
from exporters.passes.exact import make_exact
from exporters.passes.quantize import quantize
from hardware.emulator import run

DATA = Path(__file__).parent / "data"
T = 8
NORSE, SINABS = {"dt": 1e-3}, {"dt": 1.0, "method": "exponential"}
SOFT = {"reset": "soft"}

FILES: dict[str, tuple[dict[str, Any], int]] = {
    "spikingjelly_0": ({}, 0),
    "spikingjelly_1": ({}, 0),
    "spikingjelly_2": ({}, 0),
    "snntorch_zero": ({}, 0),
    "snntorch_subtract": (SOFT, 0),
    "snntorch_recurrent_zero": ({}, 0),
    "snntorch_recurrent_subtract": (SOFT, 0),
    "norse_recurrent_zero": ({}, 0),
    "norse_recurrent_subtract": (SOFT, 0),
    "norse_box": (NORSE, 0),
    "norse_if": ({}, 0),
    "norse_lif": (NORSE, 0),
    "norse_cuba": (NORSE, 0),
    "sinabs_if_zero": ({}, 0),
    "sinabs_if_subtract": (SOFT, 0),
    "sinabs_lif_zero": (SINABS, 0),
    "sinabs_lif_subtract": (SINABS | SOFT, 0),
    "rockpool_lif_slow": ({"dt": 1e-3} | SOFT, 0),
    # its R is exp(−dt/τ)·τ/dt where its neurons take in x itself: 5 % off at τ = 20 dt
    "rockpool_lif": ({"dt": 1e-3} | SOFT, 70),
    "rockpool_cuba": ({"dt": 1e-3, "method": "exponential"} | SOFT, 50),
}
"""File → how to read it, and how many of its 640 output spikes may differ."""


def unpacked(name: str, folder: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    with np.load(DATA / f"{name}.npz") as data:
        path = folder / f"{name}.nir"
        path.write_bytes(data["nir"].tobytes())
        return path, data["x"], data["spikes"]


@pytest.mark.parametrize("name", FILES)
def test_spikes_are_those_of_the_framework(tmp_path: Path, name: str) -> None:
    path, x, spikes = unpacked(name, tmp_path)
    how, allowed = FILES[name]
    graph = door.read(path, T=T, **how)
    found = run(graph, x).output
    assert found.shape == spikes.shape == (8, T, 10) and 0 < spikes.mean() < 1
    differ = int((found != spikes).sum())
    assert differ <= allowed and (differ > 0) == (allowed > 0)
    assert graph.metadata["nir_warnings"]  # above the threshold, not at it, at least


def test_every_file_is_read() -> None:
    assert {path.stem for path in DATA.glob("*.npz")} >= set(FILES)
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 300_000


@pytest.mark.parametrize("name", ["spikingjelly_0", "norse_box", "sinabs_if_zero"])
def test_they_go_on_to_the_chip_and_back(tmp_path: Path, name: str) -> None:
    """Quantized, written by us and read again: the same spikes; and the float network is not far from the integer one."""
    path, x, spikes = unpacked(name, tmp_path)
    graph = door.read(path, T=T, **FILES[name][0])
    for lowered in (make_exact(graph), quantize(graph)[0]):
        again = door.read(door.write(lowered, tmp_path / "again.nir"))
        output = run(lowered, lowered.encode(x)).output
        np.testing.assert_array_equal(run(again, again.encode(x)).output, output)
        assert (output != spikes).mean() < 0.1


def test_the_wrong_time_step_gives_other_spikes(tmp_path: Path) -> None:
    """What `dt` and `reset` are for: read without them, these files mean something else."""
    for name in ("norse_box", "sinabs_lif_zero", "sinabs_if_subtract"):
        path, x, spikes = unpacked(name, tmp_path)
        assert (run(door.read(path, T=T), x).output != spikes).any()


def test_reset_must_be_one_of_two(tmp_path: Path) -> None:
    path, _, _ = unpacked("snntorch_zero", tmp_path)
    with pytest.raises(door.NirError, match="the reset is 'gentle'; choose hard or soft"):
        door.read(path, T=T, reset="gentle")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["spikingjelly_2", "snntorch_zero"])
def test_cut_off_files_of_others_give_one_line(tmp_path: Path, name: str) -> None:
    path, _, _ = unpacked(name, tmp_path)
    content = path.read_bytes()
    for share in (0.1, 0.5, 0.9, 0.99):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(door.NirError, match=rf"^{name}\.nir: [^\n]+$"):
            door.read(path, T=T)
