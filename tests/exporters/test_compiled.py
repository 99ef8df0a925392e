"""Kernels run on several threads: every block once, errors come back, and a fork does not wait for its parent's threads."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch  # noqa: F401  whose OpenMP it is

from exporters import compiled


def no_openmp() -> None:
    return None


def team_of_one() -> Any:
    return lambda work, data, threads, flags: work(data)


def team_that_does_nothing() -> Any:
    """As where Ctrl-C comes before the first instruction of what it calls."""
    return lambda work, data, threads, flags: None


@pytest.mark.parametrize("openmp", [None, no_openmp, team_of_one, team_that_does_nothing])
@pytest.mark.parametrize(("blocks", "threads"), [(0, 2), (1, 4), (7, 1), (7, 2), (8, 3), (5, 16)])
def test_every_block_once(
    monkeypatch: pytest.MonkeyPatch, openmp: Callable[[], Any] | None, blocks: int, threads: int
) -> None:
    if openmp is not None:
        monkeypatch.setattr(compiled, "_openmp", openmp)
    done, shares, lock = [0] * blocks, 0, threading.Lock()

    def kernel(first: int, last: int, step: int) -> None:
        nonlocal shares
        with lock:
            shares += 1
            for block in range(first, last):
                done[block] += step

    compiled.spread(kernel, blocks, threads, 3)
    assert done == [3] * blocks
    assert shares == min(blocks, threads)


@pytest.mark.parametrize("openmp", [None, no_openmp])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("threads", [1, 2])
def test_what_a_share_raises_is_raised(
    monkeypatch: pytest.MonkeyPatch, openmp: Callable[[], Any] | None, error: type[BaseException], threads: int
) -> None:
    if openmp is not None:
        monkeypatch.setattr(compiled, "_openmp", openmp)

    def kernel(first: int, last: int) -> None:
        if first == 0:
            raise error("here")

    with pytest.raises(error, match="here"):
        compiled.spread(kernel, 8, threads)


def run(script: str) -> None:
    """In a process of its own, with two threads whatever the machine has."""
    given = {"OMP_NUM_THREADS": "2", "PYTHONPATH": ":".join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", script], env=given, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_threads_are_those_of_torch() -> None:
    script = """
import os, torch
from exporters.compiled import spread

def threads():
    return set(os.listdir("/proc/self/task"))

torch.rand(2**22).exp()  # begins torch's threads
before = threads()
spread(lambda first, last: [torch.rand(9) for _ in range(2000)], 8, 2)
torch.rand(2**22).exp()
assert threads() == before, (threads(), before)
"""
    run(script)


@pytest.mark.skipif(sys.platform != "linux", reason="needs fork")
def test_a_fork_does_not_wait_for_threads_it_lacks() -> None:
    script = """
import os, signal, torch
from exporters.compiled import spread

done = []
spread(lambda first, last: done.append((first, last)), 8, 2)
pid = os.fork()
if pid == 0:
    signal.alarm(30)
    spread(lambda first, last: done.append((first, last)), 8, 2)
    os._exit(0 if sorted(done) == [(0, 4)] * 2 + [(4, 8)] * 2 else 1)
assert os.waitpid(pid, 0)[1] == 0
"""
    run(script)
