"""The house stands as it is drawn: arrows between packages, no cycles, one meaning for every name, pieces of a readable size."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from kdsnn.deploy.catalogs import CATALOGS

ROOT = Path(__file__).parent.parent
PACKAGES = ("exporters", "hardware", "profilers", "kdsnn")

ALLOWED = {
    "exporters": (),
    "hardware": ("exporters",),
    "profilers": ("exporters",),
    "kdsnn": ("exporters",),  # data, models, train and the modules beside them
    "kdsnn/deploy": ("exporters", "hardware", "profilers"),
    "kdsnn/cli": (),  # parses and prints; the work is kdsnn.deploy's
}
"""Which other packages each may import. Within kdsnn: `deploy` knows all but `cli`, `cli` knows `deploy`."""

LONGEST_MODULE, LONGEST_FUNCTION = 400, 60

LONG_MODULES: dict[str, str] = {}
"""Module → why it is longer."""

LONG_FUNCTIONS: dict[str, str] = {}
"""module.function → why its body is longer."""


def modules() -> dict[str, Path]:
    """Dotted name → file, of every module of the four packages but Lava's own Python (which imports nothing from here)."""
    found = {}
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found[name] = file
    return found


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imported(file: Path, known: set[str]) -> set[str]:
    """The modules that a file imports anywhere in it: in functions and for type checking too."""
    found: set[str] = set()
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in known else node.module)
    return found


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_point_one_way(package: str) -> None:
    known = modules()
    dotted = package.replace("/", ".")
    inner = [p.replace("/", ".") for p in ALLOWED if p.startswith(f"{package}/")]
    own = [
        m
        for m in known
        if within(m, dotted) and not any(within(m, i) for i in inner) and m not in ("kdsnn", "kdsnn.__main__")
    ]
    assert own
    for module in own:
        for name in imported(known[module], set(known)):
            top = name.split(".")[0]
            if top not in PACKAGES:
                continue
            assert top == dotted.split(".")[0] or top in ALLOWED[package], f"{module} imports {name}"
            if dotted != "kdsnn.cli":
                assert name != "kdsnn", f"{module} imports the verbs, which import it"
            if dotted != "kdsnn.cli":
                assert not within(name, "kdsnn.cli"), f"{module} imports {name}"
            if dotted == "kdsnn":
                assert not within(name, "kdsnn.deploy"), f"{module} imports {name}"


def test_no_import_cycle() -> None:
    known = modules()
    edges = {m: sorted(imported(f, set(known)) & set(known)) for m, f in known.items()}
    finished: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " → ".join((*path[path.index(module) :], module))
        if module not in finished:
            for target in edges[module]:
                visit(target, (*path, module))
            finished.add(module)

    for module in known:
        visit(module, ())


def test_terminal_libraries_stay_in_the_command_line() -> None:
    for module, file in modules().items():
        if not within(module, "kdsnn.cli"):
            text = file.read_text(encoding="utf-8")
            assert "typer" not in text and "rich" not in text.split(), module
            tops = {name.split(".")[0] for name in imported(file, set())}
            assert not tops & {"typer", "rich", "click"}, module


def test_torchvision_is_never_imported() -> None:
    for module, file in modules().items():
        tops = {name.split(".")[0] for name in imported(file, set())}
        assert not tops & {"torchvision", "torchaudio", "lightning", "torchmetrics"}, module


def test_every_class_has_a_name_of_its_own() -> None:
    homes: dict[str, list[str]] = {}
    for module, file in modules().items():
        for node in ast.walk(parsed(file)):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(module)
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}


def functions(tree: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{prefix}.{node.name}", node
            yield from functions(node, f"{prefix}.{node.name}")
        elif isinstance(node, ast.ClassDef):
            yield from functions(node, f"{prefix}.{node.name}")


def test_modules_and_functions_are_read_in_one_sitting() -> None:
    long_modules, long_functions = {}, {}
    for module, file in modules().items():
        if (lines := len(file.read_text(encoding="utf-8").splitlines())) > LONGEST_MODULE:
            long_modules[module] = lines
        for name, node in functions(parsed(file), module):
            assert node.end_lineno is not None
            if (lines := node.end_lineno - node.body[0].lineno + 1) > LONGEST_FUNCTION:  # the signature does not count
                long_functions[name] = lines
    # both ways, so that an exception does not outlive its reason
    assert long_modules.keys() == LONG_MODULES.keys(), long_modules
    assert long_functions.keys() == LONG_FUNCTIONS.keys(), long_functions
    assert all([*LONG_MODULES.values(), *LONG_FUNCTIONS.values()])


QUICK = [
    ["--help"], ["--version"], ["distill", "--help"], ["run", "--help"], ["lava", "--help"],
    *(["list", what, *how] for what in CATALOGS for how in ([], ["--json"])),
]  # fmt: skip


def test_what_answers_at_once_loads_nothing_heavy() -> None:
    """What makes a command slow to start is importing torch, numpy and friends: none of them may be touched."""
    code = (
        "import contextlib, io, sys\n"
        "from kdsnn.cli.app import main\n"
        f"for arguments in {QUICK!r}:\n"
        "    sys.argv[1:] = arguments\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as said:\n"
        "        try: main()\n"
        "        except SystemExit as end: assert not end.code or '--version' in arguments, (arguments, end.code)\n"
        "    assert '--help' not in arguments or 'Usage: ' in said.getvalue()\n"
        "    assert 'list' not in arguments or len(said.getvalue().splitlines()) > 5\n"
        "    heavy = {'torch', 'numpy', 'pandas', 'onnx', 'h5py', 'spikingjelly', 'sklearn', 'scipy'} & set(sys.modules)\n"
        "    assert not heavy, (arguments, heavy)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
