"""Help, defaults and slips of the command line."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer.main

from kdsnn.cli.app import app, main
from kdsnn.cli.ascii_words import WORDS
from kdsnn.cli.options import LOWERING, PANELS
from kdsnn.cli.texts import lowering_of, settings_of
from kdsnn.cli.usage import OneLineGroup
from kdsnn.errors import KdsnnError
from kdsnn.train.config import TrainConfig
from kdsnn.train.recipes import RECIPES, recipe_of
from kdsnn.version import version

ROOT = Path(__file__).parents[2]


def typed(*arguments: str, encoding: str = "utf-8") -> tuple[int, str, str]:
    """Exit code, standard output and error of a command in this process, through streams of this encoding."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    before, sys.argv = sys.argv, ["kdsnn-deploy", *arguments]
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.argv = before
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode(encoding))  # type: ignore[attr-defined]
    return code, texts[0], texts[1]


def commands() -> Iterator[tuple[str, Any]]:
    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        for inner, one in getattr(command, "commands", {}).items():
            yield f"{name} {inner}", one
        if not hasattr(command, "commands"):
            yield name, command


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["distill", "cnn2", "--method", "kd"], "--method kd: choose from response, feature, temporal, selective, none; see"),
        (["distill", "cnn2", "--method", "respnse"], "none; did you mean response? see kdsnn-deploy distill --help"),
        (["run", "x.net", "--timestps", "3"], "--timestps: there is no such option; did you mean --timesteps? see"),
        (["evalute", "x"], "evalute: there is no such command, only demo, pretrain"),
        (["evalute", "x"], "did you mean evaluate? see kdsnn-deploy --help"),
        (["lava", "stat"], "only setup, status; did you mean status? see kdsnn-deploy lava --help"),
        (["distill", "cnn2"], "--out is missing: the checkpoint to write (.safetensors); see kdsnn-deploy distill --help"),
        (["check", "x.net"], "--target is missing: the chip: loihi1 or loihi2, see `list targets`, or a .json file"),
        (["list"], "WHAT is missing: choose from models, data, recipes"),
        (["list", "modls"], "WHAT modls: choose from models, data"),
        (["pretrain", "cnn2", "--out", "a.safetensors", "--epochs", "ten"], "--epochs"),
        (["pretrain", "cnn2", "--out", "a.safetensors", "--weight-decay", "-1"], "--weight-decay"),
        (["pretrain", "cnn2", "--out", "a.safetensors", "--optimizer", "adam"], "did you mean adamw?"),
        (["pretrain", "cnn2", "--out", "a.safetensors", "--device", "tpu"], "--device tpu: it must be one of cpu, cuda"),
        (["pretrain", "cnn2", "--out", "a.safetensors", "--device", "mps:9"], "--device mps:9: torch has no such device here"),
        (["evaluate", "a.safetensors", "b"], "unexpected extra argument"),
        (["evaluate", "a.safetensors", "--data"], "requires an argument"),
        (["evaluate", "no\nsuch\x1b[31mcommand"], "error: "),
    ],
)  # fmt: skip
def test_a_slip_is_one_line_that_says_what_to_choose_from(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = typed(*arguments)
    assert (code, out) == (2, "") and not list(tmp_path.iterdir())
    assert err.count("\n") == 1 and err.startswith("error: ") and said in err, err


def test_every_default_is_shown() -> None:
    silent = []
    for verb, command in commands():
        for option in command.params:
            told = isinstance(option.show_default, str) if option.default is None else option.show_default
            if option.param_type_name == "option" and not (option.required or option.default is False or told):
                silent.append(f"{verb} {option.opts[0]}")
    assert silent == []


def test_defaults_that_are_numbers_are_those_of_training() -> None:
    shown = {p.name: p.show_default for p in dict(commands())["distill"].params if p.param_type_name == "option"}
    general = TrainConfig()
    for name in ("optimizer", "schedule", "precision"):
        assert shown[name] == getattr(general, name)
    for name in ("weight_decay", "label_smoothing"):
        assert float(shown[name]) == getattr(general, name)
    for name in ("lr", "timesteps", "warmup_epochs"):
        expected = {"lr": general.lr, "timesteps": general.T, "warmup_epochs": general.warmup}[name]
        assert float(re.match(r"[\d.]+", shown[name])[0]) == expected  # type: ignore[index]
    # one number is shown only where no recipe has another
    recipes = [*RECIPES.values(), *(recipe_of("own", (channels, 32, 32)) for channels in (1, 2, 3))]
    of_all = ("lr", "optimizer", "weight_decay", "schedule", "warmup_epochs", "label_smoothing", "precision", "T")
    for config in (c for recipe in recipes for c in (recipe.pretrain, recipe.distill)):
        assert all(getattr(config, name) == getattr(general, name) for name in of_all)


def test_help_has_panels_and_nothing_is_mistaken_for_markup() -> None:
    assert {name for names in PANELS.values() for name in names} <= {p.name for _, c in commands() for p in c.params}
    for arguments in (["distill", "-h"], ["run", "--help"]):
        code, out, err = typed(*arguments)
        assert (code, err) == (0, "")
        assert all(f"─ {panel} " in out for panel in ("Data", "Network", "Few bits"))
        # `factory:` between colons is an emoji to rich
        assert {c for c in out if not c.isascii()} <= {*"╭─╮│╰╯…×⌈⌉"}
    # `main` in a process of its own, as a module
    done = subprocess.run(
        [sys.executable, "-m", "kdsnn", "--version"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.stdout == f"kdsnn-deploy {version()}\n" and done.returncode == 0, done.stderr
    _, out, _ = typed("-h")
    assert all(option in out for option in ("--version", "--install-completion", "--show-completion"))


def test_words_are_completed_and_nothing_typed_gives_help(monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = typed()
    assert code == 2 and "Commands" in out + err and "error: " not in err
    monkeypatch.setenv("_KDSNN_DEPLOY_COMPLETE", "complete_bash")
    for words, expected in (("kdsnn-deploy e", ["evaluate", "export"]), ("kdsnn-deploy distill --met", ["--method"])):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
        assert typed()[1].split() == expected


def test_recipes_are_listed_as_they_are() -> None:
    _, out, _ = typed("list", "recipes", "--json")
    rows = {row["data"]: row for row in ast.literal_eval(out)}
    digits = RECIPES["digits"]
    assert rows["digits"]["epochs"] == f"{digits.pretrain.epochs} / {digits.distill.epochs}"
    assert rows["digits"]["readout"] == digits.readout
    color = recipe_of("own", (3, 32, 32))
    assert rows["other color images (32×32)"]["augmentation"] == str(color.augmentation)
    assert rows["all else"]["augmentation"] == "none" and rows["all else"]["epochs"] == "100"


def test_texts_of_options_are_read_or_refused() -> None:
    with pytest.raises(KdsnnError, match=r"--set clip_nrm=1: did you mean clip_norm\? It must read NAME=VALUE"):
        settings_of(["clip_nrm=1"])


def test_where_a_sign_cannot_be_shown_a_word_stands_for_it() -> None:
    code, out, err = typed("list", "recipes", encoding="ascii")
    assert code == 0 and "28x28" in out and "\\x" not in out + err
    assert any(set(line.strip()) == {"-"} for line in out.splitlines())
    _, out, _ = typed("list", "recipes", encoding="latin-1")
    assert "28×28" in out
    _, out, _ = typed("run", "--help", encoding="ascii")
    assert "\\" not in out
    _, _, err = typed("evaluate", "né×.safetensors", encoding="ascii")  # a name stays exact but for signs
    assert "n\\xe9x.safetensors" in err


def test_every_sign_of_a_message_has_its_word() -> None:
    """Of all texts, but docstrings, in the code that words what is printed."""
    signs: set[str] = set()
    for package in ("kdsnn/cli", "kdsnn/deploy", "profilers/report"):
        for file in (ROOT / package).rglob("*.py"):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            docs = {
                id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)
            }
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
                    signs |= {c for c in node.value if not c.isascii()}
    assert "×" in signs and signs - WORDS.keys() == set()


def test_calibrate_may_stand_bare() -> None:
    seen: list[list[str]] = []

    class Read(OneLineGroup):
        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            seen.append(args)
            return super().resolve_command(ctx, args)

    probe = typer.Typer(cls=Read)
    probe.callback()(lambda: None)

    @probe.command("go")
    def go(
        calibrate: Annotated[str | None, typer.Option()] = None, other: Annotated[bool, typer.Option("--other")] = False
    ) -> None:
        pass

    for given in (["--calibrate"], ["--calibrate", "--other"], ["--calibrate", "digits"]):
        probe(["go", *given], standalone_mode=False)
    assert seen == [["go", "--calibrate="], ["go", "--calibrate=", "--other"], ["go", "--calibrate", "digits"]]
    unset = dict.fromkeys(LOWERING)
    assert [lowering_of({**unset, "calibrate": text})["calibrate"] for text in ("", "digits", None)] == [
        True,
        "digits",
        None,
    ]
