"""`run` on Lava in parts, and `.net` files of others: what a file does not say is asked for by name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from hardware.lava import client
from tests.integration.test_cli import cli, error_line

DATA = Path(__file__).parents[1] / "exporters" / "data"
SLAYER = DATA / "slayer_cuba.net"


@pytest.fixture
def spikes(tmp_path: Path) -> Path:
    """The spikes that slayer's forward was given, and what came out, as labels."""
    with np.load(DATA / "slayer_cuba.npz") as data:
        np.savez(tmp_path / "spikes.npz", x_test=data["x"], y_test=data["y"].sum(axis=1).argmax(axis=1))
    return tmp_path / "spikes.npz"


@pytest.mark.usefixtures("lava_environment")
def test_many_samples_go_through_one_lava(student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started, parts = [], []

    class Counted(client.LavaSession):
        def __enter__(self) -> client.LavaSession:
            started.append(self)
            return super().__enter__()

        def run(self, frames: np.ndarray, **how: object) -> client.LavaRun:
            parts.append(len(frames))
            return super().run(frames, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(client, "LavaSession", Counted)
    monkeypatch.setattr("kdsnn.deploy.run._samples_at_once", lambda network: 4)
    saved = tmp_path / "spikes.npz"
    found = json.loads(cli("run", student, "--on", "emulator,lava", "--samples", 11, "--save", saved, "--json").stdout)
    (row,) = found["comparisons"]
    assert row["ok"] and row["mismatches"] == row["hidden"] == 0 and row["samples"] == 11
    assert row["hidden_compared"] == sum(layer["compared"] for layer in row["layers"]) > 1000
    assert [r["samples"] for r in found["runs"]] == [11, 11]
    with np.load(saved) as arrays:
        assert 0.01 < arrays["lava"].mean() < 0.99 and (arrays["lava"] == arrays["emulator"]).all()
        assert len(np.unique(arrays["lava"], axis=0)) > 1  # or any sample would do for any other
    assert len(started) == 1 and parts == [1, 4, 4, 3]  # the first warms it up


@pytest.mark.usefixtures("lava_environment")
def test_a_file_that_slayer_wrote_runs_on_the_command_line(spikes: Path, tmp_path: Path) -> None:
    how = ["--timesteps", 12, "--input-coding", "spikes"]
    saved = tmp_path / "found.npz"
    done = cli("run", SLAYER, *how, "--data", f"npz:{spikes}", "--on", "emulator,lava", "--save", saved, "--json")
    found = json.loads(done.stdout)
    assert [(r["backend"], r["samples"], r["accuracy"]) for r in found["runs"]] == [("emulator", 6, 1), ("lava", 6, 1)]
    assert found["comparisons"][0]["ok"] and found["comparisons"][0]["hidden_compared"] > 100
    with np.load(saved) as arrays, np.load(DATA / "slayer_cuba.npz") as slayer:
        np.testing.assert_array_equal(arrays["lava"], slayer["y"])
        np.testing.assert_array_equal(arrays["emulator"], slayer["y"])
        np.testing.assert_array_equal(arrays["input"], slayer["x"])
    # with spikes the first layer is on the chip, with 8-bit pixels Loihi 1 leaves it to the host
    for coding, host in (("spikes", 0), ("pixels", 1)):
        check = ["check", SLAYER, "--target", "loihi1", "--timesteps", 12, "--input-coding", coding, "--json"]
        assert len(json.loads(cli(*check).stdout)["placement"]["host"]) == host


def test_pixels_have_the_bits_that_the_option_says(student: Path, tmp_path: Path) -> None:
    cli("export", student, "--to", "netx", "--input-bits", 4, "--out", tmp_path)
    net, run = tmp_path / "tiny.net", ["--samples", 9, "--save"]
    cli("run", net, *run, tmp_path / "whole.npz")
    assert "tiny.net.json says how the input is coded" in error_line("run", net, "--input-coding", "pixels")
    (tmp_path / "tiny.net.json").unlink()
    bare = ["run", net, "--timesteps", 4, "--input-coding", "pixels"]
    cli(*bare, "--input-bits", 4, *run, tmp_path / "bare.npz")
    cli(*bare, *run, tmp_path / "eight.npz")
    with (
        np.load(tmp_path / "whole.npz") as whole,
        np.load(tmp_path / "bare.npz") as same,
        np.load(tmp_path / "eight.npz") as other,
    ):
        for key in ("input", "emulator"):
            np.testing.assert_array_equal(whole[key], same[key])
        assert whole["input"].max() == 15 and other["input"].max() == 255
        assert whole["emulator"].any() and (whole["emulator"] != other["emulator"]).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], r"no slayer_cuba.net.json beside it .* give --timesteps .* and --input-coding \(pixels or spikes\)"),
        (["--timesteps", 12], r"beside it says how to run it; give --input-coding \(pixels or spikes\)"),
        (["--input-coding", "spikes"], r"beside it says how to run it; give --timesteps"),
        (["--timesteps", 12, "--input-coding", "spikes"], r"reads frames over time, and digits holds images; digits\+events12 are events of them"),
        (["--timesteps", 9, "--input-coding", "spikes", "--data", "npz:FILE"], r"takes x_test \(N, 9, 1, 8, 8\) of 0 and 1"),
        (["--timesteps", 12, "--input-coding", "spikes", "--data", "npz:none"], "none: not a readable .npz"),
    ],
)  # fmt: skip
def test_what_a_bare_file_needs_is_said(spikes: Path, options: list[object], message: str) -> None:
    given = [f"npz:{spikes}" if option == "npz:FILE" else option for option in options]
    assert re.search(message, error_line("run", SLAYER, *given))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_test": None}, "not a readable .npz with x_test and y_test"),
        ({"y_test": np.zeros(5, int)}, r"x_test has shape \(6, 12, 1, 8, 8\), y_test \(5,\)"),
        ({"x_test": np.full((6, 12, 1, 8, 8), 2)}, "of 0 and 1"),
        ({"x_test": np.full((6, 12, 1, 8, 8), np.nan)}, "of 0 and 1"),
        ({"x_test": np.zeros((0, 12, 1, 8, 8)), "y_test": np.zeros(0, int)}, r"x_test has shape \(0, 12"),
        ({"x_test": np.moveaxis(np.zeros((6, 12, 1, 8, 8)), 1, -1)}, r"has shape \(6, 1, 8, 8, 12\), .* takes x_test"),
        ({"y_test": np.array(list("abcdef"))}, "it holds uint8 and <U1"),
        ({"y_test": np.array([None] * 6)}, "not a readable .npz"),
    ],
)  # fmt: skip
def test_spikes_that_do_not_fit(spikes: Path, change: dict[str, np.ndarray | None], message: str) -> None:
    with np.load(spikes) as data:
        arrays = {name: value for name, value in (dict(data) | change).items() if value is not None}
    np.savez(spikes, **arrays)
    how = ["--timesteps", 12, "--input-coding", "spikes", "--data", f"npz:{spikes}"]
    assert re.search(message, error_line("run", SLAYER, *how))


def test_only_bare_net_files_take_the_option(student: Path, tmp_path: Path) -> None:
    assert "says itself what it reads; leave it out" in error_line("run", student, "--input-coding", "spikes")
    assert "is a finished model" in error_line("run", "a.onnx", "--input-coding", "spikes")
    assert "no such file" in error_line("run", tmp_path / "none.net", "--input-coding", "spikes")
    spiking = ["--timesteps", 12, "--input-coding", "spikes"]
    assert "reads frames over time, and digits holds images" in error_line(
        "profile", SLAYER, *spiking, "--out", tmp_path / "report"
    )
    # written again, it has its .json
    cli("export", SLAYER, *spiking, "--to", "netx", "--out", tmp_path)
    described = json.loads((tmp_path / "slayer_cuba.net.json").read_text())
    assert (described["T"], described["input"]["encoding"]) == (12, "spikes")
