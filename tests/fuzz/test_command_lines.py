"""Argument lists drawn from the commands' own tables of options, right and wrong, and those kept in the corpus."""

from __future__ import annotations

import enum
import inspect
import os
import shlex
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy, sampled_from
from typer.models import OptionInfo

from kdsnn.cli.app import app
from tests.fuzz.harness import CORPUS, command, examples, memory_limited, untouched
from tests.fuzz.test_arrays import archive, npy, sound

VERBS: dict[str, Callable[..., None]] = {c.name: c.callback for c in app.registered_commands if c.name and c.callback}
EXAMPLES = {
    "evaluate": 25,
    "predict": 10,
    "summary": 10,
    "benchmark": 4,
    "export": 15,
    "check": 20,
    "run": 30,
    "profile": 8,
    "pretrain": 25,
    "distill": 25,
    "list": 8,
}
"""How many argument lists each verb gets; `demo` takes no input but its options, and those the others have too."""

MEMORY = 4 << 30
"""Bytes that the commands may have beyond what this process has taken already: what asks for more must say so in one line."""

FACTORIES = """
    import sys
    import torch
    from torch import nn
    from spikingjelly.activation_based import layer, neuron

    def fine(): return nn.Sequential(layer.Flatten(), layer.Linear(64, 10), neuron.IFNode())
    def prints(): print("note: hello"); return fine()
    def ends(): sys.exit(0)
    def ends_with_a_word(): raise SystemExit("bye")
    def raises(): raise ValueError("two\\nlines")
    def recursive(): return recursive()
    def exhausts(): return bytearray(1 << 60)
    def nothing(): pass
    def a_class(): return nn.Module
    def needs_more(size): return fine()
    def empty(): return nn.Sequential()
    def forgets(): sys.path.clear(); return fine()
    number = 3

    class Refuses(nn.Module):
        def forward(self, x): raise RuntimeError("two\\nlines")
    class Ends(nn.Module):
        def __init__(self): super().__init__(); self.flat, self.fc, self.n = layer.Flatten(), layer.Linear(64, 10), neuron.IFNode()
        def forward(self, x): sys.exit(0)
    class Chooses(Ends):
        def forward(self, x): return self.n(self.fc(self.flat(x))) if x.sum() > 0 else x
    class Raises(Ends):
        def forward(self, x): return {}[self.fc(self.flat(x))]
    class NoEval(nn.Module):
        def eval(self): raise RuntimeError("not me")
    class Strange(nn.Module):
        def __getattr__(self, name): raise KeyError(name)
    class Nested(nn.Module):
        def __init__(self): super().__init__(); self.inner = Ends()
        def forward(self, x): return self.inner(x)
"""
NAMES = [
    "fine",
    "prints",
    "ends",
    "ends_with_a_word",
    "raises",
    "recursive",
    "exhausts",
    "nothing",
    "a_class",
    "needs_more",
    "empty",
    "forgets",
    "number",
    "missing",
    "Refuses",
    "Ends",
    "Chooses",
    "Raises",
    "NoEval",
    "Strange",
    "Nested",
]

INTEGERS = (
    "-1",
    "0",
    "1",
    "2",
    "3",
    "9",
    "99",
    "-9223372036854775809",
    "1" + "0" * 30,
    "9" * 5000,
    "1e3",
    "0x10",
    "1_0",
    "٣",
    "²",
    " 2 ",
    "",
)
FLOATS = (
    "0",
    "0.1",
    "1",
    "-1",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "-1e400",
    "1e308",
    "5e-324",
    "1e-400",
    "1e9",
    "0.5.5",
    "",
    "x",
    "½",
)
TEXTS = (
    "",
    " ",
    "x",
    "ü",
    "字",
    "\x1b[31m",
    "a\nb",
    "-",
    "--",
    "../..",
    "/",
    "=",
    ",",
    "%s",
    "{}",
    "[red]",
    "\ufeff",
    "\udcff",
    "x" * 5000,
)
SHAPES = (
    "1,8,8",
    "64",
    "3,,4",
    "",
    ",",
    "1,8,8,",
    "0",
    "-1",
    "1,8",
    "²",
    "1,8,8,8",
    "1e3",
    "8" * 30,
    "9" * 5000,
    "1048576,1048576,1048576",
    "65536,8,8",
)
SPECS = ("npz:", "npz:DIR", "npz:FILE", "npy:DIR", "folder:FILE", "folder:DIR", "folder:", "digits+", "+rot", "npz:GOOD+rot+rot", "npz:GOOD+12k-50k",
         "npz:GOOD+back-image", "npz:GOOD+none", "digits:1", "hf:", "mp3:FILE", "npz:/dev/zero", "npz:/dev/stdin+rot")  # fmt: skip


@pytest.fixture(scope="module")
def inputs(student: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one of everything that a command can be given, sound and not."""
    folder = tmp_path_factory.mktemp("inputs")
    for source in (student, teacher):
        (folder / source.name).write_bytes(source.read_bytes())
    command(
        "export",
        student,
        "--to",
        "onnx",
        "--to",
        "netx",
        "--to",
        "nir",
        "--form",
        "loop",
        "--form",
        "sequence",
        "--out",
        folder,
    )
    (folder / "alone.net").write_bytes((folder / "snn.net").read_bytes())
    (folder / "good.npz").write_bytes(archive(sound()))
    (folder / "bad.npz").write_bytes(archive({**sound(), "y_train": np.zeros(20)}))
    (folder / "arrays").mkdir()
    for key, value in sound().items():
        (folder / "arrays" / f"{key}.npy").write_bytes(npy(value))
    for ending in ("safetensors", "net", "nir", "onnx", "pt", "json", "npz"):
        (folder / f"text.{ending}").write_text("hello")
        (folder / f"empty.{ending}").touch()
        (folder / f"folder.{ending}").mkdir()
        os.mkfifo(folder / f"pipe.{ending}")
    (folder / "hostile_factories.py").write_text(textwrap.dedent(FACTORIES))
    return folder


@pytest.fixture(autouse=True)
def place(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The current folder is an empty one, from which the factories can be imported; memory is limited."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(inputs)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with memory_limited(MEMORY):
        yield


def often(*right: str, wrong: tuple[str, ...] = ()) -> SearchStrategy[str]:
    """A right value three times out of four, so that what comes behind it is reached."""
    return st.integers(0, 3).flatmap(lambda n: sampled_from(right if n else (*wrong, *TEXTS)))


def files(inputs: Path, *right: str, ending: str) -> SearchStrategy[str]:
    wrong = [str(inputs / f"{kind}.{ending}") for kind in ("text", "empty", "folder", "pipe", "missing")]
    return often(*(str(inputs / name) for name in right), wrong=(*wrong, "/dev/null", "/dev/zero", "."))


def sources(inputs: Path) -> SearchStrategy[str]:
    made = ("snn.safetensors", "snn.net", "snn.nir", "snn.onnx", "snn.loop.onnx", "ann.safetensors", "alone.net")
    modules = (
        "os:getcwd",
        "nothing.at.all:x",
        "a..b:x",
        "kdsnn:__name__",
        "torch.nn:Identity",
        "sys:exit",
        "builtins:input",
    )
    return st.one_of(
        sampled_from([str(inputs / name) for name in made]),
        sampled_from([f"hostile_factories:{name}" for name in NAMES]),
        sampled_from(modules),
        *(files(inputs, made[0], ending=ending) for ending in ("safetensors", "net", "nir", "onnx")),
    )


def data(inputs: Path) -> SearchStrategy[str]:
    names = {"GOOD": "good.npz", "DIR": "arrays", "FILE": "bad.npz"}

    def filled(spec: str) -> str:
        for word, name in names.items():
            spec = spec.replace(word, str(inputs / name))
        return spec

    return often(f"npz:{inputs / 'good.npz'}", f"npy:{inputs / 'arrays'}", wrong=tuple(map(filled, SPECS)))


def values(name: str, kind: Any, inputs: Path) -> SearchStrategy[str]:
    """Values of an option or an argument, by its name, else by its type."""
    widths = ("channels=2,2", "hidden=4", "channels=1,3", "channels=0", "channels=2", "channels=-1,2", "hidden=1e3", "hidden=", "hidden=4,", "x=1", "=",
              "channels=1000000000000,2", f"hidden={10**30}", f"channels={2**20},{2**20}", "hidden=٣", "hidden=²", "hidden=" + "9" * 5000)  # fmt: skip
    settings_ = [f"{option}={value}" for option in ("lr", "momentum", "ema", "temperature", "T", "warmup_epochs", "clip_norm", "shift", "alpha", "x", "seed",
                 "weight_decay", "label_smoothing", "batch_size", "milestones", "schedule", "optimizer", "precision", "lr_decay", "feature_weight")
                 for value in (*FLOATS, *INTEGERS, "adamw", "step", "bf16", "0.3,0.6", "0.6,0.3", "nan,inf")]  # fmt: skip
    by_name: dict[str, SearchStrategy[str]] = {
        "source": sources(inputs),
        "sources": sources(inputs),
        "checkpoint": files(inputs, "snn.safetensors", "ann.safetensors", ending="safetensors"),
        "files": files(inputs, "arrays/x_test.npy", "arrays/x_train.npy", ending="npz"),
        "seconds": often("0", "0.01", wrong=("nan", "-1", "x")),
        "teacher": files(inputs, "ann.safetensors", "snn.safetensors", ending="safetensors"),
        "twin": files(inputs, "snn.safetensors", ending="safetensors"),
        "start": files(inputs, "snn.safetensors", "ann.safetensors", ending="safetensors"),
        "weights": files(inputs, "snn.safetensors", ending="pt"),
        "energy_model": files(inputs, "text.json", ending="json"),
        "time_model": files(inputs, "text.json", ending="json"),
        "data": data(inputs),
        "calibrate": data(inputs),
        "what": often("data", "energy-models", "time-models", "targets"),  # models takes seconds, and has no input
        "model": often("cnn2", "cnn2", "resnet14", "vgg11", wrong=("CNN2", "resnet")),
        "target": often("loihi1", "loihi2", wrong=("loihi3",)),
        "on": often("torch", "onnx", "emulator", "torch,emulator", wrong=("lava,,lava", "torch,", "emulator;torch", "cuda")),
        "nir": often("dt=1e-3", "reset=soft", "reset=hard", "method=exponential", wrong=tuple(f"dt={v}" for v in FLOATS)),
        "input_shape": often("1,8,8", wrong=SHAPES),
        "timesteps": often("1", "2", wrong=INTEGERS),
        "option": sampled_from(widths),
        "set_": often("ema=0.9", "schedule=step", "T=2", wrong=tuple(settings_)),
        "format_": often("html", "json", "csv", "markdown", "latex"),
        "noise_kind": often("std", "var"),
        "noise_on": often("train", "test", "train,test", wrong=("train,", ",")),
        "out": often("out.safetensors", wrong=("out.pt", "nowhere/x.safetensors", ".", "..safetensors")),
        "save": often("spikes.npz", wrong=(".", "nowhere/x.npz", "/dev/null/x.npz")),
        "tensorboard": often("events"),
        "epochs": often("1", wrong=("0", "-1", "1" + "0" * 30, "1.0", "nan", "")),
    }  # fmt: skip
    if name in by_name:
        return by_name[name]
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return often(*(member.value for member in kind))
    return {int: often("1", "2", "8", wrong=INTEGERS), float: often("0", "0.1", wrong=FLOATS)}.get(
        kind, sampled_from(TEXTS)
    )


def table(verb: str) -> dict[str, tuple[str, Any, bool]]:
    """Parameter → (option, or "" for an argument; type of one value; whether it is needed)."""
    found = {}
    hints = get_type_hints(VERBS[verb], include_extras=True)
    for name, parameter in inspect.signature(VERBS[verb]).parameters.items():
        assert get_origin(hints[name]) is Annotated
        kind, info = get_args(hints[name])[:2]
        while get_origin(kind) is not None:  # list[str] | None → str
            kind = next(k for k in get_args(kind) if k is not type(None))
        # inside Annotated typer keeps the first of an option's names where its default would be
        named = [text for text in (info.default, *(info.param_decls or ())) if str(text).startswith("--")]
        option = (named or [f"--{name.replace('_', '-')}"])[0] if isinstance(info, OptionInfo) else ""
        found[name] = (option, kind, parameter.default is inspect.Parameter.empty)
    return found


@st.composite
def argument_lists(draw: DrawFn, verb: str, inputs: Path) -> list[str]:
    parameters = table(verb)
    given_: list[str] = []
    needed = [name for name, (_, _, is_needed) in parameters.items() if is_needed]
    training = verb in ("pretrain", "distill")
    if training:  # whatever else is drawn, an accepted run is short
        given_ += ["--option", "channels=2,2", "--option", "hidden=4", "--epochs", "1"]
    if "data" in parameters:
        given_ += ["--data", f"npz:{inputs / 'good.npz'}"]
    if verb == "distill":
        given_ += ["--timesteps", "2", "--teacher", str(inputs / "ann.safetensors")]
    optional = [name for name in parameters if name not in needed]
    for name in [*needed, *draw(st.lists(sampled_from(optional), max_size=5))]:
        option, kind, _ = parameters[name]
        if kind is bool:
            given_.append(option)
            continue
        value = draw(values(name, kind, inputs))
        if training and name == "model":
            value = draw(sampled_from([value, "cnn2", "cnn2", "cnn2"]))
        if name in ("source", "sources") and value.startswith("hostile_factories:"):
            given_ += ["--input-shape", "1,8,8", "--timesteps", "2"]
        given_ += [option, value] if option else [value]
    if draw(st.integers(0, 9)) == 0:
        given_.insert(
            draw(st.integers(0, len(given_))), draw(sampled_from((*TEXTS, "--x", "--data", "--help", "--no-verify")))
        )
    return [verb, *given_]


@pytest.mark.parametrize("verb", EXAMPLES)
def test_any_argument_list_gives_a_result_or_one_line(verb: str, inputs: Path) -> None:
    @examples(EXAMPLES[verb])
    @given(argument_lists(verb, inputs))
    def holds(arguments: list[str]) -> None:
        with untouched(inputs):
            command(*arguments)

    holds()


def test_every_verb_is_drawn_from() -> None:
    assert set(EXAMPLES) == set(VERBS) - {"demo"}


LINES = (CORPUS / "command_lines.txt").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("line", [line for line in LINES if line and not line.startswith("#")])
def test_command_lines_of_the_corpus(line: str, inputs: Path) -> None:
    """Each once ended in a traceback, a warning, the wrong exit code or not at all: exit code, then arguments."""
    code, *arguments = shlex.split(line)
    with untouched(inputs):
        found = command(*(a.replace("@", f"{inputs}/").replace("NINES", "9" * 5000) for a in arguments))
    assert found.code == int(code), found
