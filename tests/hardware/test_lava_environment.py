"""The managed environment: made once, whole or not at all. Building is faked where only the order of things matters."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from exporters.errors import DeployError
from hardware.lava import client, environment, status


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty home for environments; returns where ours would be."""
    monkeypatch.setenv("KDSNN_LAVA_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / f"py{sys.version_info.major}.{sys.version_info.minor}"


PIP_SAYS = """\
Looking in indexes: https://example.org/simple
Collecting lava-nc==0.10.0
  Downloading lava_nc-0.10.0-py3-none-any.whl (45.7 MB)
Processing /folder/scikit_learn-1.9.1-cp311-cp311-manylinux_2_27_x86_64.whl
Installing collected packages: lava-nc, scikit-learn
Successfully installed lava-nc-0.10.0 scikit-learn-1.9.1
"""


@pytest.fixture
def fake(elsewhere, monkeypatch):
    """Steps of the build that only make what a virtual environment would have; returns the steps taken."""
    steps = []

    def call(command, lock, failure, follow=None):
        steps.append(failure)
        time.sleep(0.05)
        (elsewhere / "bin").mkdir(parents=True, exist_ok=True)
        python = elsewhere / "bin" / "python"
        if not python.exists():
            python.symlink_to(sys.executable)
        if follow is not None:
            for line in PIP_SAYS.splitlines():
                follow(line)
        if failure.startswith("pip"):
            (elsewhere / "lib/python3.11/site-packages/tests").mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(environment, "_call", call)
    return steps


def test_where_it_lives(monkeypatch):
    monkeypatch.delenv("KDSNN_LAVA_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/cache")
    assert environment.home() == Path("/some/cache/kdsnn-deploy/lava")
    monkeypatch.setenv("KDSNN_LAVA_HOME", "/other")
    assert environment.home() == Path("/other")
    monkeypatch.delenv("KDSNN_LAVA_HOME")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    for platform, cache in (("linux", ".cache"), ("darwin", "Library/Caches")):
        monkeypatch.setattr(sys, "platform", platform)
        assert environment.home() == Path("/home/me") / cache / "kdsnn-deploy/lava"


def test_other_systems_are_refused(elsewhere, monkeypatch):
    monkeypatch.setattr(environment, "os", SimpleNamespace(**{**vars(os), "name": "nt"}))
    with pytest.raises(DeployError, match="Intel Lava runs on Linux and macOS only"):
        environment.setup()
    assert not elsewhere.parent.exists()


def test_nothing_is_installed(elsewhere):
    found = status.status()
    assert not found.installed and not found.works and found.versions == {}
    assert found.problem == "the Lava environment is not installed: run `kdsnn-deploy lava setup`"
    with pytest.raises(DeployError, match="is not installed: run"):
        environment.python_path()
    assert not elsewhere.parent.exists()


def test_setup_is_fast_when_done(lava_environment):
    start = time.perf_counter()
    assert environment.setup() == lava_environment
    assert time.perf_counter() - start < 0.2


def test_what_was_installed(lava_environment, lava_python):
    assert lava_python == lava_environment / "bin" / "python"
    code = "import json; from importlib.metadata import version; print(json.dumps({n: version(n) for n in %r}))"
    said = subprocess.run([lava_python, "-I", "-c", code % list(environment.PINS)], capture_output=True, check=True)
    assert json.loads(said.stdout) == environment.PINS
    assert not list(lava_environment.glob("lib/python*/site-packages/tests"))


def test_the_worker_without_a_job_only_imports_lava(lava_python):
    """The last step of `setup`."""
    worker = Path(environment.__file__).with_name("worker")
    said = subprocess.run([lava_python, "-I", worker], capture_output=True, text=True, check=True)
    assert said.stdout == "ok\n"


def test_status_runs_a_network(lava_environment):
    found = status.status()
    assert found.installed and found.works and found.problem is None and found.path == lava_environment
    assert found.versions["lava-nc"] == "0.10.0"
    assert 0 < found.seconds_per_step < 1


def test_status_of_an_environment_that_does_not_work(fake, elsewhere):
    environment.setup()
    (elsewhere / "bin" / "python").unlink()
    (elsewhere / "bin" / "python").symlink_to(Path(sys.base_prefix) / "bin" / "python3")  # a Python without Lava
    found = status.status()
    assert found.installed and not found.works and found.seconds_per_step is None
    assert found.problem is not None and "No module named" in found.problem and "\n" not in found.problem
    (elsewhere / "bin" / "python").unlink()  # its Python was uninstalled
    found = status.status()
    assert not found.installed and "is incomplete: run `kdsnn-deploy lava setup`" in str(found.problem)


def test_status_of_an_environment_that_computes_something_else(lava_environment, monkeypatch):
    right = client.run

    def wrong(*arguments, **options):
        found = right(*arguments, **options)
        return replace(found, spikes=1 - found.spikes)

    monkeypatch.setattr(client, "run", wrong)
    found = status.status()
    assert found.installed and not found.works and found.seconds_per_step is None
    assert found.problem == (
        f"Lava runs but computes wrong spikes; if it stays so, delete {lava_environment} and run `kdsnn-deploy lava setup`"
    )


def test_an_interrupted_step_ends_with_all_its_processes(tmp_path):
    code = "import subprocess; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); p.wait()"
    seen = []

    def interrupt(line):
        seen.append(int(line))
        raise KeyboardInterrupt

    with environment._lock(tmp_path / "lock", print) as lock, pytest.raises(KeyboardInterrupt):
        environment._call([sys.executable, "-c", code], lock, "it failed", interrupt)
    state = Path(f"/proc/{seen[0]}/stat")
    end = time.monotonic() + 10
    while (
        state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"
    ):  # a zombie waits for its new parent
        assert time.monotonic() < end, "sleep is still there"
        time.sleep(0.02)


def test_a_half_built_environment_is_rebuilt(fake, elsewhere):
    (elsewhere / "bin").mkdir(parents=True)
    (elsewhere / "rubbish").touch()
    with pytest.raises(DeployError, match="is incomplete"):
        environment.python_path()
    told = []
    environment.setup(told.append)
    assert told[2:5] == ["fetching lava-nc 0.10.0 (1 of 11)", "fetching scikit_learn 1.9.1 (2 of 11)", "installing"]
    assert not (elsewhere / "rubbish").exists() and not list(elsewhere.rglob("tests"))
    assert environment.python_path() == elsewhere / "bin" / "python"
    assert any("removing the incomplete" in line for line in told)


def test_other_versions_are_rebuilt(fake, elsewhere, monkeypatch):
    environment.setup()
    monkeypatch.setitem(environment.PINS, "numpy", "9.9")
    with pytest.raises(DeployError, match="has other versions than this program needs: run"):
        environment.python_path()
    environment.setup()
    environment.python_path()
    assert len(fake) == 6


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"packages": 3}', '{"packages": {"numpy": "1"}}', "\0\0"])
def test_a_damaged_marker_counts_as_incomplete(fake, elsewhere, content):
    environment.setup()
    (elsewhere / "complete.json").write_text(content)
    with pytest.raises(DeployError, match="run `kdsnn-deploy lava setup`"):
        environment.python_path()


@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize(
    "failure", [KeyboardInterrupt(), OSError(28, "No space left on device", "/x"), DeployError("pip")]
)
def test_whatever_ends_the_build_leaves_nothing_that_counts(fake, elsewhere, monkeypatch, step, failure):
    whole = environment._call

    def call(*arguments):
        whole(*arguments)
        if len(fake) == step:
            raise failure

    monkeypatch.setattr(environment, "_call", call)
    expected = DeployError if isinstance(failure, OSError) else type(failure)
    with pytest.raises(expected):
        environment.setup()
    with pytest.raises(DeployError, match="is incomplete"):
        environment.python_path()
    monkeypatch.setattr(environment, "_call", whole)
    environment.setup()
    environment.python_path()


def test_two_setups_at_once_build_once(fake):
    told = []
    threads = [threading.Thread(target=environment.setup, args=(told.append,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fake) == 3  # venv, pip, import
    assert sum("another setup is at work" in line for line in told) == 3


def test_the_lock_outlives_a_killed_setup_while_its_pip_lives(tmp_path):
    code = (
        "import os, subprocess, sys; from pathlib import Path; from hardware.lava import environment as e\n"
        "with e._lock(Path(sys.argv[1]), print) as lock:\n"
        "    p = subprocess.Popen(['sleep', '1.5'], pass_fds=(lock,)); print('up', flush=True); os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    start = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as killed:
        assert killed.stdout is not None and killed.stdout.readline() == b"up\n"
        killed.wait()
        told = []
        with environment._lock(tmp_path / "lock", told.append):
            assert time.monotonic() - start > 1.4 and len(told) == 1


def test_no_network(elsewhere, monkeypatch):
    for name in [n for n in os.environ if n.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_USER", "1")  # would make pip refuse; a user's habits must not matter
    with pytest.raises(DeployError, match=r"^pip cannot install Lava: .*cannot be reached.*`kdsnn-deploy lava setup`$"):
        environment.setup()
    assert status.status().problem is not None


def test_a_home_that_cannot_be_written(monkeypatch):
    monkeypatch.setenv("KDSNN_LAVA_HOME", "/dev/null/home")
    with pytest.raises(DeployError, match=r"cannot be written: /dev/null/home: Not a directory; .*KDSNN_LAVA_HOME"):
        environment.setup()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["noise", "ERROR: [Errno 28] No space left on device", ""], r"^\[Errno 28\] .*; make room"),
        (["The virtual environment was not created", "because ensurepip is not available."], "python3-venv"),
        (["ERROR: No matching distribution found for lava-nc==0.10.0"], r"^No matching .* lava-nc==0.10.0; then run"),
        (["Traceback", "ImportError: x", ""], "^ImportError: x; then run"),
        ([], "^exit code 3; then run"),
    ],
)
def test_what_pip_says_becomes_one_line(lines, message):
    with pytest.raises(DeployError, match=message) as caught:
        raise DeployError(environment._explain(lines, 3))
    assert "\n" not in str(caught.value)
