"""The command line as a user meets it: in processes of its own, with right input and wrong."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from kdsnn import checkpoint, models
from kdsnn.checkpoint import CheckpointInfo
from kdsnn.cli.app import main
from kdsnn.data import load

COMMAND = [sys.executable, "-c", "from kdsnn.cli.app import main; main()"]


@dataclass
class Done:
    stdout: str
    stderr: str


def cli(*arguments: object, code: int = 0) -> Done:
    """Run the command line in this process, which saves importing torch forty times."""
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["kdsnn-deploy", *map(str, arguments)]
    found = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        found = int(end.code or 0)
    finally:
        sys.argv = before
    assert found == code, f"exit {found}\n{out.getvalue()}\n{err.getvalue()}"
    return Done(out.getvalue(), err.getvalue())


def error_line(*arguments: object) -> str:
    """Run a command that must fail as users' mistakes do: exit code 2, one line behind its remarks, no traceback."""
    done = cli(*arguments, code=2)
    lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("note: ")]
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    return lines[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained pair: a small ANN and a small student, a few epochs each, made by the command line itself."""
    path = tmp_path_factory.mktemp("cli")
    widths = ["--option", "channels=6,6", "--option", "hidden=16"]
    cli("pretrain", "cnn2", *widths, "--epochs", 12, "--out", path / "ann.safetensors")
    cli(
        "distill",
        "cnn2",
        *widths,
        "--epochs",
        12,
        "--teacher",
        path / "ann.safetensors",
        "--out",
        path / "snn.safetensors",
    )
    return path


def test_training_is_repeatable_and_learns(folder: Path) -> None:
    again = folder / "again.safetensors"
    done = cli(
        "distill", "cnn2", "--option", "channels=6,6", "--option", "hidden=16", "--epochs", 12,
        "--teacher", folder / "ann.safetensors", "--out", again, "--json",
    )  # fmt: skip
    assert again.read_bytes() == (folder / "snn.safetensors").read_bytes()
    assert json.loads(done.stdout)["test_accuracy"] > 0.3


def test_evaluate_prints_every_time_step(folder: Path) -> None:
    found = json.loads(cli("evaluate", folder / "snn.safetensors", "--json").stdout)
    assert len(found["accuracy"]) == 4 and found["samples"] == len(load("digits").y_test)
    assert "time steps" in cli("evaluate", folder / "snn.safetensors").stdout


def test_export_writes_verified_files(folder: Path, tmp_path: Path) -> None:
    found = json.loads(cli("export", folder / "snn.safetensors", "--out", tmp_path, "--json").stdout)
    rows = found["files"]
    assert [s["name"] for s in found["quantization"]] == [
        "stem.conv",
        "body.stage2.conv1",
        "body.head.fc1",
        "body.head.classifier",
    ]
    assert [r["format"] for r in rows] == ["netx", "onnx"]
    assert all(r["mismatches"] == 0 and r["verified"] > 1000 for r in rows)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["snn.net", "snn.net.json", "snn.onnx"]
    # the file alone runs, and gives what the checkpoint gives
    saved = tmp_path / "spikes.npz"
    cli("run", tmp_path / "snn.net", "--samples", 5, "--save", saved)
    cli("run", folder / "snn.safetensors", "--samples", 5, "--save", tmp_path / "other.npz")
    with np.load(saved) as a, np.load(tmp_path / "other.npz") as b:
        assert sorted(a.files) == sorted(b.files) == ["emulator", "input"]
        np.testing.assert_array_equal(a["emulator"], b["emulator"])
        assert a["emulator"].shape == (5, 4, 10) and a["input"].dtype == np.int32


@pytest.mark.usefixtures("lava_environment")
def test_run_compares_all_backends(folder: Path) -> None:
    done = cli(
        "run", folder / "snn.safetensors", "--on", "torch,onnx", "--on", "emulator,lava", "--samples", 4, "--json"
    )
    found = json.loads(done.stdout)
    assert [r["backend"] for r in found["runs"]] == ["spikingjelly", "torch", "onnx", "emulator", "lava"]
    by_backend = {c["backend"]: c for c in found["comparisons"]}
    assert all(by_backend[name]["must_agree"] and by_backend[name]["ok"] for name in ("torch", "onnx", "lava"))
    assert by_backend["lava"]["mismatches"] == by_backend["lava"]["hidden"] == 0
    assert by_backend["lava"]["hidden_compared"] > 1000
    for backend in ("torch", "onnx"):  # the author's own weights: rounding alone may differ, and hardly ever does
        row = by_backend[backend]
        layers = row["proof"]["layers"]
        assert len(layers) == 2 * 5 and not any(
            layer["differences"] for layer in layers
        )  # two runs of four layers and the output
        assert row["hidden"] <= 1e-3 * row["hidden_compared"]


def test_many_samples_are_compared_in_parts_that_memory_holds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("run", folder / "snn.safetensors", "--on", "torch,onnx,emulator", "--samples", 23, "--compare", "--json")
    whole = json.loads(cli(*command).stdout)
    monkeypatch.setattr("kdsnn.deploy.run._samples_at_once", lambda network: 9)
    parts = json.loads(cli(*command).stdout)
    for found in (whole, parts):
        for row in found["runs"]:
            del row["seconds"]
    assert parts == whole
    assert [row["samples"] for row in parts["runs"]] == [23] * 4 and parts["comparisons"][2]["mismatches"]


def test_profile_writes_the_report(folder: Path, tmp_path: Path) -> None:
    cli(
        "profile", folder / "snn.safetensors", "--teacher", folder / "ann.safetensors", "--twin", folder / "snn.safetensors",
        "--out", tmp_path, "--samples", 20, code=2,
    )  # fmt: skip  # the twin is the student itself: two of the same name
    done = cli(
        "profile",
        folder / "snn.safetensors",
        "--teacher",
        folder / "ann.safetensors",
        "--out",
        tmp_path,
        "--samples",
        20,
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["layers.csv", "report.html", "report.json"]
    assert "SynOps" in done.stdout and "kdsnn-deploy profile" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("what", ["models", "data", "energy-models", "time-models"])
def test_list(what: str) -> None:
    assert len(json.loads(cli("list", what, "--json").stdout)) >= 2
    cli("list", what)


def test_every_format_and_form(folder: Path, tmp_path: Path) -> None:
    done = cli(
        "export", folder / "snn.safetensors", "--to", "onnx", "--to", "nir", "--form", "sequence", "--form", "loop", "--form", "step",
        "--quantized", "--out", tmp_path, "--json",
    )  # fmt: skip
    rows = json.loads(done.stdout)["files"]
    assert len(rows) == 7 and all(r["mismatches"] == 0 and r["verified"] > 1000 for r in rows)
    names = {
        "snn.onnx",
        "snn.int8.onnx",
        "snn.loop.onnx",
        "snn.int8.loop.onnx",
        "snn.step.onnx",
        "snn.int8.step.onnx",
        "snn.nir",
    }
    assert {p.name for p in tmp_path.iterdir()} == names
    # NIR is a source like any other
    cli("export", tmp_path / "snn.nir", "--to", "netx", "--out", tmp_path / "again")
    cli("run", tmp_path / "snn.nir", "--on", "onnx,torch", "--samples", 3)
    cli("export", folder / "ann.safetensors", "--to", "onnx", "--out", tmp_path / "teacher")
    assert [p.name for p in (tmp_path / "teacher").iterdir()] == ["ann.onnx"]


def test_twin_and_settings(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "student.safetensors"
    widths = ["--option", "channels=4,4", "--option", "hidden=8", "--epochs", 2, "--crop", 1, "--set", "ema=0.9"]
    done = cli(
        "distill",
        "cnn2",
        *widths,
        "--teacher",
        folder / "ann.safetensors",
        "--method",
        "temporal",
        "--twin",
        "--out",
        out,
        "--json",
    )
    rows = json.loads(done.stdout)
    assert len(rows) == 2 and all(r["spikes"] >= 0 and r["synops"] >= 0 for r in rows)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "student.csv", "student.safetensors", "student.svg",
        "student.twin.csv", "student.twin.safetensors",
    ]  # fmt: skip
    # --set reaches settings that have an option of their own too, unless that option is given
    plain = [
        "distill",
        "cnn2",
        "--method",
        "none",
        "--option",
        "channels=2,2",
        "--option",
        "hidden=4",
        "--out",
        out,
        "--overwrite",
        "--json",
    ]
    assert json.loads(cli(*plain, "--set", "epochs=3").stdout)["epochs"] == 3
    assert json.loads(cli(*plain, "--set", "epochs=3", "--epochs", 2).stdout)["epochs"] == 2
    assert "--set wrong=1" in error_line("distill", "cnn2", "--method", "none", "--out", out, "--set", "wrong=1")
    assert "ema takes a value" in error_line("distill", "cnn2", "--method", "none", "--out", out, "--set", "ema=x")


def test_wrong_files_give_one_line(folder: Path, tmp_path: Path) -> None:
    corrupted, cut = tmp_path / "corrupted.safetensors", tmp_path / "cut.safetensors"
    content = bytearray((folder / "snn.safetensors").read_bytes())
    cut.write_bytes(content[: len(content) // 2])
    content[-20] ^= 4
    corrupted.write_bytes(content)
    cli("export", folder / "snn.safetensors", "--to", "netx", "--out", tmp_path)
    net = tmp_path / "snn.net"
    half = tmp_path / "half.net"
    half.write_bytes(net.read_bytes()[: net.stat().st_size // 2])
    assert "damaged" in error_line("evaluate", corrupted)
    assert "cut.safetensors: not a readable" in error_line("run", cut)
    assert "half.net: not a readable netx" in error_line("run", half)
    assert "no such file" in error_line("run", tmp_path / "missing.safetensors")
    assert "no such file" in error_line("run", tmp_path / "missing.net")
    assert "not a source" in error_line("run", "student")
    assert "this is an ANN" in error_line("run", folder / "ann.safetensors")
    assert "this is a spiking network" in error_line(
        "distill", "cnn2", "--teacher", folder / "snn.safetensors", "--out", tmp_path / "x.safetensors"
    )
    assert "already quantized" in error_line("run", net, "--on", "onnx")


def test_wrong_arguments_give_one_line(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    assert "there is no model 'cnn3'; did you mean cnn2" in error_line("pretrain", "cnn3", "--out", out)
    assert "has no option 'depth'" in error_line("pretrain", "cnn2", "--option", "depth=3", "--out", out)
    assert "must read NAME=NUMBER" in error_line("pretrain", "cnn2", "--option", "hidden", "--out", out)
    assert "Unknown data set 'mnits'" in error_line("pretrain", "cnn2", "--data", "mnits", "--out", out)
    assert "ends in .safetensors" in error_line("pretrain", "cnn2", "--out", tmp_path / "x.pt")
    assert "it needs --teacher" in error_line("distill", "cnn2", "--out", out)
    assert "no such backend" in error_line("run", folder / "snn.safetensors", "--on", "loihi")
    assert "weights have 2 to 8 bits" in error_line("run", folder / "snn.safetensors", "--bits", 1)
    assert not out.exists()


def test_wrong_input_shape_gives_one_line(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "other.npz"
    x, y = np.zeros((20, 9, 9), np.uint8), np.arange(20) % 10
    np.savez(data, x_train=x, y_train=y, x_test=x, y_test=y)
    assert "takes input of shape (1, 8, 8)" in error_line("run", folder / "snn.safetensors", "--data", f"npz:{data}")
    assert "takes input of shape (1, 8, 8)" in error_line(
        "evaluate", folder / "snn.safetensors", "--data", f"npz:{data}"
    )
    assert "(1, 8, 8)" in error_line(
        "profile", folder / "snn.safetensors", "--data", f"npz:{data}", "--out", tmp_path / "r"
    )


def test_nan_weights_are_refused_by_name(tmp_path: Path) -> None:
    module = models.build("cnn2", spiking=True, input_shape=(1, 8, 8), classes=10, channels=(2, 2), hidden=4)
    info = CheckpointInfo("cnn2", True, (1, 8, 8), 10, "digits", {"channels": (2, 2), "hidden": 4}, "rate", "if", 4)
    with torch.no_grad():
        next(module.parameters()).view(-1)[0] = float("nan")
    with pytest.raises(Exception, match="NaN or infinite"):
        checkpoint.save(tmp_path / "nan.safetensors", module, info)
    assert not list(tmp_path.iterdir())


def test_unwritable_places_give_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for verb in ("export", "profile"):
        line = error_line(verb, folder / "snn.safetensors", "--out", tmp_path / "file" / "sub")
        assert "file" in line
    error_line("pretrain", "cnn2", "--out", tmp_path / "file" / "x.safetensors")


def test_interrupting_training_leaves_the_old_checkpoint(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "student.safetensors"
    old = (folder / "snn.safetensors").read_bytes()
    out.write_bytes(old)
    process = subprocess.Popen(
        [*COMMAND, "pretrain", "cnn2", "--epochs", "2000", "--overwrite", "--out", str(out)],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    process.stderr.readline()  # training has begun: the first progress line is out
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in errors
    state = tmp_path / "student.training"
    assert errors.splitlines()[-1] == f"interrupted; {state} holds what was trained; continue with --resume"
    assert out.read_bytes() == old and state.exists()
    # the history may be there; a half-written file may not
    assert {p.name for p in tmp_path.iterdir()} <= {out.name, state.name, "student.csv", "student.svg"}
    assert "a run that was stopped left this" in error_line("pretrain", "cnn2", "--epochs", 2000, "--out", out)


def test_debug_shows_the_traceback() -> None:
    done = subprocess.run(
        [*COMMAND, "evaluate", "none.safetensors", "--debug"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_only_the_first_of_several_processes_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdsnn.cli.app.ALONE_AFTER", 0.0)
    monkeypatch.setenv("RANK", "0")
    assert "cnn2" in cli("list", "models").stdout
    monkeypatch.setenv("RANK", "1")
    done = cli("list", "models")
    assert done.stdout == done.stderr == ""
    # an error that the launcher has not ended it for is its own
    assert cli("evaluate", "none.safetensors", code=2).stderr.startswith("process 1: error: none.safetensors: no such")


def test_an_error_in_a_process_of_its_own_is_one_line() -> None:
    done = subprocess.run([*COMMAND, "evaluate", "none.safetensors"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith("error: none.safetensors")


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's own file in the current folder, with networks of all the habits SpikingJelly allows."""
    (tmp_path / "my_networks.py").write_text(
        """
import torch
from torch import nn
from spikingjelly.activation_based import functional, layer, neuron

def body():
    torch.manual_seed(0)
    net = nn.Sequential(layer.Conv2d(1, 4, 3), layer.BatchNorm2d(4), neuron.IFNode(), layer.AvgPool2d(2), layer.Flatten(),
                        layer.Linear(36, 10), neuron.LIFNode(decay_input=False))
    nn.init.uniform_(net[0].weight, -0.2, 0.6)
    nn.init.uniform_(net[5].weight, -0.3, 0.5)
    return net

def single_step():
    return body()

def multi_step():
    net = body()
    functional.set_step_mode(net, "m")
    return net

class Coded(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = multi_step()

    def forward(self, x):
        return self.body(x.unsqueeze(0).repeat(4, 1, 1, 1, 1)).mean(0)

def soft_reset():
    return nn.Sequential(layer.Flatten(), layer.Linear(64, 10), neuron.IFNode(v_reset=None))

def broken():
    raise ValueError("no such thing")

def not_a_module():
    return 3
"""
    )
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("my_networks", None)
    return tmp_path


@pytest.mark.usefixtures("lava_environment")
@pytest.mark.parametrize("factory", ["single_step", "multi_step", "Coded"])
def test_any_spikingjelly_network_runs_everywhere(user_module: Path, factory: str) -> None:
    source = f"my_networks:{factory}"
    shape = ["--input-shape", "1,8,8", "--timesteps", 4]
    done = cli("run", source, *shape, "--on", "torch,onnx,emulator,lava", "--samples", 3, "--json")
    found = {c["backend"]: c for c in json.loads(done.stdout)["comparisons"]}
    assert found["lava"]["mismatches"] == found["lava"]["hidden"] == found["onnx"]["hidden"] == 0
    assert found["torch"]["hidden_compared"] == 3 * 4 * (4 * 36 + 10) and found["torch"]["hidden"] <= 2
    cli("export", source, *shape, "--out", user_module / "out")
    table = cli("run", source, *shape, "--on", "emulator,lava", "--samples", 3, "--compare").stdout
    assert "layer by layer" in table and "lava / emulator" in table


def test_factory_weights_and_mistakes(user_module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(user_module)
    from my_networks import multi_step  # type: ignore[import-not-found]
    from safetensors.torch import save_file

    shape = ["--input-shape", "1,8,8", "--timesteps", 4]
    state = multi_step().state_dict()
    save_file(state, user_module / "w.safetensors")
    torch.save(state, user_module / "w.pt")
    torch.save({"wrong": torch.zeros(1)}, user_module / "wrong.pt")
    for name in ("w.safetensors", "w.pt"):
        cli("export", "my_networks:multi_step", *shape, "--weights", user_module / name, "--out", user_module / "out")
    where = ["--out", user_module / "x"]
    assert "not a state dict of this network" in error_line(
        "export", "my_networks:multi_step", *shape, "--weights", user_module / "wrong.pt", *where
    )
    assert "no such file" in error_line("export", "my_networks:multi_step", *shape, "--weights", "none.pt", *where)
    assert "needs --input-shape" in error_line("export", "my_networks:multi_step", *where)
    assert "must read C,H,W" in error_line(
        "export", "my_networks:multi_step", "--input-shape", "8x8", "--timesteps", 4, *where
    )
    assert "--timesteps 0: it must be 1 to" in error_line(
        "export", "my_networks:multi_step", "--input-shape", "1,8,8", "--timesteps", 0, *where
    )
    assert "no such thing" in error_line("export", "my_networks:broken", *shape, *where)
    assert "returned a int" in error_line("export", "my_networks:not_a_module", *shape, *where)
    assert "cannot be built" in error_line("export", "my_networks:nothing", *shape, *where)
    assert "cannot be built" in error_line("export", "no_such_package:net", *shape, *where)
    assert "reset by subtraction does not exist in Lava's LIF" in error_line(
        "export", "my_networks:soft_reset", "--to", "netx", *shape, *where
    )
    assert not (user_module / "x").exists() or not list((user_module / "x").iterdir())


def test_images_of_several_sizes_need_the_option_that_is_named(tmp_path: Path) -> None:
    from PIL import Image

    for part in ("Training", "Testing"):
        for k, name in enumerate("ab"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(3):
                Image.new("L", (8 + i, 8), 50 * k + i).save(tmp_path / part / name / f"{i}.png")
    small = ["--epochs", 1, "--option", "channels=2,2", "--option", "hidden=4", "--out", tmp_path / "t.safetensors"]
    line = error_line("pretrain", "cnn2", "--data", tmp_path, *small)
    assert "all images must have one size: give --image-size H,W to resize them" in line
    assert "--image-size 8x8: it must be H,W" in error_line(
        "pretrain", "cnn2", "--data", tmp_path, *small, "--image-size", "8x8"
    )
    done = cli("pretrain", "cnn2", "--data", tmp_path, *small, "--image-size", "8")
    assert "Training is taken for the training images" in done.stderr and "has 2 classes: a, b." in done.stderr
    found = cli("evaluate", tmp_path / "t.safetensors", "--data", f"{tmp_path}+8x8", "--json")
    assert json.loads(found.stdout)["samples"] == 6
