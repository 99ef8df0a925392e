"""The README's Python runs, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from kdsnn.cli.app import app

TEXT = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


def test_commands_and_options_exist() -> None:
    verbs = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    lines = re.findall(r"^kdsnn-deploy ([a-z-]+)(.*)$", TEXT, re.MULTILINE)
    assert {"pretrain", "distill", "evaluate", "export", "run", "profile"} <= {verb for verb, _ in lines}
    for verb, rest in lines:
        options = {o for p in getattr(verbs[verb], "params", []) for o in p.opts}
        assert set(re.findall(r" (--[a-z-]+)", rest.split("#")[0])) <= options, verb
