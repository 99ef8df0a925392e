"""The arrows between the packages go one way, and the command line starts without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "exporters": set(),
    "hardware": {"exporters"},
    "profilers": {"exporters"},
    "kdsnn": set(),
    "kdsnn/cli": {"exporters", "hardware", "profilers"},
}
PACKAGES = {"exporters", "hardware", "profilers", "kdsnn"}


def imported_packages(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_point_one_way(package: str) -> None:
    files = [f for f in (ROOT / package).rglob("*.py") if package == "kdsnn/cli" or "kdsnn/cli" not in f.as_posix()]
    assert files
    own = package.split("/")[0]
    for file in files:
        foreign = imported_packages(file) & PACKAGES - {own} - ALLOWED[package]
        assert not foreign, f"{file.relative_to(ROOT)} imports {foreign}"


def test_torchvision_is_never_imported() -> None:
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            assert not imported_packages(file) & {"torchvision", "torchaudio", "lightning", "torchmetrics"}, file


@pytest.mark.parametrize("arguments", [["--help"], ["distill", "--help"], ["run", "--help"], ["lava", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    """What makes `--help` slow is importing torch, numpy and friends: none of them may be touched."""
    code = (
        f"import sys; sys.argv[1:] = {arguments!r}\n"
        "from kdsnn.cli.app import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'numpy', 'pandas', 'onnx', 'h5py', 'spikingjelly', 'sklearn', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage: " in done.stdout
