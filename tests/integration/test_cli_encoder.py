"""`--encoder host`, and `--nir` for foreign files, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import nir
import numpy as np
import torch

from tests.integration.test_cli import cli, error_line


def test_host_and_chip_together_are_the_network(student: Path, tmp_path: Path, lava_python: Path) -> None:
    rows = json.loads(cli("export", student, "--to", "netx", "--encoder", "host", "--out", tmp_path, "--json").stdout)
    assert [(row["format"], row["mismatches"]) for row in rows["files"]] == [("netx", 0), ("onnx", 0)]
    assert all(row["verified"] for row in rows["files"])
    assert "body.stage1.conv1" not in {row["name"] for row in rows["quantization"]}  # it stays as trained
    cli("run", student, "--encoder", "host", "--samples", 12, "--save", tmp_path / "a.npz")
    cli("run", tmp_path / "tiny.net", "--on", "emulator,lava", "--samples", 12, "--save", tmp_path / "b.npz")
    cli("run", student, "--samples", 12, "--on", "torch", "--save", tmp_path / "c.npz")
    with np.load(tmp_path / "a.npz") as a, np.load(tmp_path / "b.npz") as b, np.load(tmp_path / "c.npz") as c:
        assert a["input"].shape == (12, 4, 3, 8, 8) and a["input"].any()
        assert (a["input"] == b["input"]).all()
        assert (a["emulator"] == b["emulator"]).all() and (b["emulator"] == b["lava"]).all()
        assert (a["emulator"] == c["torch"]).mean() > 0.9  # what is left of quantization


def test_what_cannot_be_divided_is_refused(student: Path, tmp_path: Path) -> None:
    cli("export", student, "--to", "netx", "--encoder", "host", "--out", tmp_path)
    assert "add --to netx" in error_line("export", student, "--to", "onnx", "--encoder", "host", "--out", tmp_path)
    assert "quantized already" in error_line("run", tmp_path / "tiny.net", "--encoder", "host")
    assert "profile the checkpoint" in error_line("profile", tmp_path / "tiny.net", "--out", tmp_path / "report")
    (tmp_path / "tiny.encoder.onnx").unlink()
    assert "is not beside it" in error_line("run", tmp_path / "tiny.net")


def test_a_foreign_nir_file_is_read_as_told(student: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tau = np.full(10, 5e-3, np.float32)
    weights = torch.randn(10, 64).numpy() * 8
    layer = nir.LIF(
        tau=tau, r=np.ones(10, np.float32), v_leak=np.zeros(10, np.float32), v_threshold=np.ones(10, np.float32)
    )
    nodes = {
        "input": nir.Input(np.array([64])),
        "fc": nir.Linear(weights),
        "lif": layer,
        "output": nir.Output(np.array([10])),
    }
    path = tmp_path / "theirs.nir"
    nir.write(path, nir.NIRGraph(nodes, [("input", "fc"), ("fc", "lif"), ("lif", "output")]))
    found = []
    for how in (["dt=1e-3"], ["dt=2e-3"], ["dt=1e-3", "method=exponential"], ["dt=1e-3", "reset=soft"]):
        options = [part for text in how for part in ("--nir", text)]
        cli("run", path, "--timesteps", 8, "--on", "torch", "--samples", 30, "--save", tmp_path / "x.npz", *options)
        with np.load(tmp_path / "x.npz") as saved:
            found.append(saved["torch"].sum())
    assert len(set(found)) == 4 and min(found) > 0
    # reset by subtraction has no form in netx: what needs none works, what does is refused
    soft = ["--timesteps", 8, "--nir", "dt=1e-3", "--nir", "reset=soft"]
    cli("profile", path, "--samples", 10, "--out", tmp_path / "report", *soft)
    assert "quantized" in (tmp_path / "report" / "report.html").read_text()
    cli("export", path, "--to", "onnx", "--out", tmp_path, *soft)
    done = cli("export", path, "--to", "netx", "--out", tmp_path, *soft, code=2)
    assert done.stderr.splitlines()[-1].startswith("error: lif: reset by subtraction")
    assert "a time step in seconds" in error_line("run", path, "--timesteps", 8, "--nir", "dt=0")
    assert "euler|exponential" in error_line("run", path, "--timesteps", 8, "--nir", "tau=3")
    assert "is not a .nir file" in error_line("run", student, "--nir", "dt=1e-3")
