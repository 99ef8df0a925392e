"""The managed Lava environment is a virtual environment of its own, since Lava is archived and lives with nothing else.

Everything is in one folder, `home()/py3.11` (one per Python version), made and remade by `setup`. The
folder counts only once `complete.json` lies in it, which is written last; a lock beside it, held by
pip too, keeps two setups apart even if one of them is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from exporters.errors import DeployError
from exporters.files import atomic_path
from hardware.lava import tiny_net

PINS = {
    "lava-nc": "0.10.0",
    "lava-dl": "0.6.0",
    "numpy": "2.4.6",
    "scipy": "1.17.1",
    "networkx": "3.6.1",
    "asteval": "1.0.10",
    "h5py": "3.16.0",
    "scikit-learn": "1.9.1",
    # what scikit-learn needs
    "joblib": "1.6.0",
    "threadpoolctl": "3.8.0",
    "narwhals": "2.29.0",
}
"""Exactly this is installed; pip's `--no-deps` keeps the rest of Lava's requirements out (torch, an old numpy)."""

NEEDED = 700_000_000
"""The environment needs this many bytes of room, with what pip unpacks on the way."""

REPAIR = "run `kdsnn-deploy lava setup`"


def home() -> Path:
    """All Lava environments are in this folder: $KDSNN_LAVA_HOME, or `kdsnn-deploy/lava` in the user's cache folder.

    Raises:
        DeployError: the user has no home folder.
    """
    try:
        if chosen := os.environ.get("KDSNN_LAVA_HOME"):
            return Path(chosen).expanduser().absolute()
        if cache := os.environ.get("XDG_CACHE_HOME"):
            base = Path(cache).expanduser().absolute()
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        else:
            base = Path.home() / ".cache"
    except RuntimeError as error:  # no HOME, and a user that the system does not know, as in a container
        raise DeployError(
            "there is no home folder for the Lava environment: set KDSNN_LAVA_HOME to a folder"
        ) from error
    return base / "kdsnn-deploy" / "lava"


def environment_path() -> Path:
    """This virtual environment belongs to the running Python version; it need not exist."""
    return home() / f"py{sys.version_info.major}.{sys.version_info.minor}"


def python_path() -> Path:
    """The complete Lava environment has this Python.

    Raises:
        DeployError: there is no environment, it is not complete, or it is of another version.
    """
    path = environment_path()
    if (reason := problem(path)) is not None:
        raise DeployError(reason)
    return path / "bin" / "python"


def setup(progress: Callable[[str], None] | None = None) -> Path:
    """The Lava environment is made, unless it is there and right; its folder is returned.

    A half-built or outdated environment is rebuilt. Two setups at once wait for one another.

    Args:
        progress: called with one line of text whenever there is something to say.

    Raises:
        DeployError: no network, pip failed, a folder that cannot be written, a full disk, no Linux or macOS.
    """
    say = progress or (lambda _: None)
    path = environment_path()
    if problem(path) is None:
        return path
    if os.name != "posix":
        raise DeployError("Intel Lava runs on Linux and macOS only")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path.with_name(f"{path.name}.lock"), say) as lock:
            if problem(path) is None:  # another setup was faster
                return path
            _build(path, lock, say)
    except OSError as error:
        where = error.filename or path
        raise DeployError(
            f"the Lava environment cannot be written: {where}: {error.strerror}; "
            "make room or set KDSNN_LAVA_HOME to another folder"
        ) from error
    return path


def installed(path: Path) -> dict[str, str]:
    """An environment has these package versions, as its marker says; none where it is not complete."""
    try:
        found = json.loads(_marker(path).read_text())["packages"]
        return {str(name): str(version) for name, version in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def problem(path: Path) -> str | None:
    """An environment may have a problem, told in one line with what to do; None where it can be used."""
    if not path.exists():
        return f"the Lava environment is not installed: {REPAIR}"
    if not os.access(path / "bin" / "python", os.X_OK):
        return f"the Lava environment in {path} is incomplete: {REPAIR}"
    packages = installed(path)
    if not packages:
        return f"the Lava environment in {path} is incomplete: {REPAIR}"
    if packages != PINS:
        return f"the Lava environment in {path} has other versions than this program needs: {REPAIR}"
    return None


# -- inside ------------------------------------------------------------------------------------------


def _marker(path: Path) -> Path:
    return path / "complete.json"


@contextlib.contextmanager
def _lock(file: Path, say: Callable[[str], None]) -> Iterator[int]:
    """An exclusive lock is held; its descriptor is yielded. Children that inherit it keep the lock while they live."""
    import fcntl

    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        waiting = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waiting:
                    say(f"another setup is at work in {file.parent}; waiting for it")
                waiting = True
                time.sleep(0.2)
        yield descriptor
    finally:
        os.close(descriptor)


def _build(path: Path, lock: int, say: Callable[[str], None]) -> None:
    if path.exists():
        say(f"removing the incomplete or outdated environment in {path}")
        shutil.rmtree(path)
    free = shutil.disk_usage(path.parent).free
    if free < NEEDED:  # asked first: venv does not say why it fails, and pip only after minutes
        raise DeployError(
            f"{path.parent} has {free / 1e6:.0f} MB of room, the Lava environment needs about {NEEDED / 1e6:.0f}; "
            f"make room or set KDSNN_LAVA_HOME to another folder, and {REPAIR}"
        )
    say(f"making a virtual environment in {path}")
    # isolated (-I): nobody's PYTHONPATH or user packages
    _call([sys.executable, "-I", "-m", "venv", str(path)], lock, "a virtual environment cannot be made")
    python = str(path / "bin" / "python")
    wanted = [f"{name}=={version}" for name, version in PINS.items()]
    seen: list[str] = []

    def follow(line: str) -> None:
        # "Collecting numpy==2.4.6", or "Processing /folder/numpy-2.4.6-cp311-….whl" where pip has a local copy
        if match := re.match(r"(?:Collecting |Processing .*/)([\w-]+?)(?:==|-)(\d[\w.]*)", line):
            seen.append(match[1])
            say(f"fetching {match[1]} {match[2]} ({len(seen)} of {len(wanted)})")
        elif line.startswith("Installing collected"):
            say("installing")

    pip = ["-I", "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--progress-bar", "off"]
    # Lava's wheels pin Python 3.10; only wheels, since nothing of it should be compiled here
    only = ["--no-deps", "--ignore-requires-python", "--only-binary", ":all:", "--no-compile"]
    _call([python, *pip, *only, *wanted], lock, "pip cannot install Lava", follow)
    # the wheels bring 110 MB of a top-level package `tests`, which would shadow anyone's own
    for tests in path.glob("lib/python*/site-packages/tests"):
        shutil.rmtree(tests)
    say("trying to import Lava")
    worker = Path(__file__).with_name("worker")
    _call([python, "-I", str(worker)], lock, "Lava is installed but cannot be imported")
    tiny_net.write(path)
    with atomic_path(_marker(path)) as temporary:
        temporary.write_text(json.dumps({"packages": PINS, "python": sys.version.split()[0]}, indent=2))
    say("the Lava environment is ready")


def _call(command: list[str], lock: int, failure: str, follow: Callable[[str], None] | None = None) -> None:
    """A step of the build is run; it ends when we end, and holds the lock as long as it lives.

    Raises:
        DeployError: `failure`, the step's last relevant line, and what to do.
    """
    # a user's own pip habits must not reach into this environment; where the index is stays as it is
    drop = {"PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_CONSTRAINT", "PIP_REQUIREMENT", "PIP_NO_BINARY"}
    kept = {name: value for name, value in os.environ.items() if name not in drop}
    tail: deque[str] = deque(maxlen=200)
    process = subprocess.Popen(
        command,
        env={**kept, "PIP_REQUIRE_VIRTUALENV": "0"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        pass_fds=(lock,),
        start_new_session=True,  # so that its children can be ended with it
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            tail.append(line.strip())
            if follow is not None:
                follow(line)
        code = process.wait()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()
    if code != 0:
        raise DeployError(f"{failure}: {_explain(list(tail), code)}")


def _explain(lines: list[str], code: int) -> str:
    """One line matters in the output of venv or pip; it is told with what to do about it."""
    text = "\n".join(lines)
    if "ensurepip is not" in text:
        return "this Python lacks ensurepip; install it (Debian and Ubuntu: python3-venv) and " + REPAIR
    errors = [line for line in lines if line.startswith("ERROR:")] or [line for line in lines if line]
    said = errors[-1].removeprefix("ERROR:").strip()[:300] if errors else f"exit code {code}"
    if re.search(r"No space left|Disk quota", text):
        return f"{said}; make room (about {NEEDED / 1e6:.0f} MB) or set KDSNN_LAVA_HOME to another folder, and {REPAIR}"
    if re.search(r"WARNING: Retrying|from versions: none", text):
        return f"{said} (the package index cannot be reached); check the network, proxy or pip's index, and {REPAIR}"
    return f"{said}; then {REPAIR} again"
