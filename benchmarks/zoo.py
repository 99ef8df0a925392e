"""SpikingJelly's own networks through every verb: the table of docs/zoo.md.

    python -m benchmarks zoo [NAME …] [--results FILE] [--page FILE] [--again]

Each network in each step mode runs in a process of its own, so that its memory comes back. Results are kept in a file
after every network, and what is in it is not run again unless `--again` says so; the page is written at the end.
Seconds are processor seconds, user and system, on one thread: what else the machine did meanwhile does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import _report
from benchmarks._process import ROOT
from exporters.files import atomic_path

RESULTS, PAGE = ROOT / "docs" / "results" / "zoo.json", ROOT / "docs" / "zoo.md"
SAMPLES = 16
"""Images that a report is made of, at least; one of each class where there are more classes."""
LONGEST = 7200.0
"""Seconds of wall-clock time after which a network is given up, many times what any takes on an idle machine."""

Result = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("benchmarks zoo", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="parts of names of networks, in the order to measure them; all by default",
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--again", action="store_true", help="measure anew what is in the results")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "MODE"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one:
        print(json.dumps(measure(*given.one)))
        return
    results = json.loads(given.results.read_text(encoding="utf-8")) if given.results.exists() else {}
    found = results.setdefault("networks", {})
    wanted = all_networks()
    chosen = dict.fromkeys(key for part in given.names or [""] for key in wanted if part in key)
    waiting = [key for key in chosen if given.again or key not in found]
    if waiting or "machine" not in results:
        results["machine"] = _report.machine()
    for key in waiting:
        found[key] = _apart(*key.rsplit(" ", 1))
        print(key, json.dumps(found[key]), flush=True)
        _write(given.results, json.dumps(results, indent=1) + "\n")
    _write(given.page, page(results))


def all_networks() -> list[str]:
    """Name and mode of every network, in the order of the page."""
    from benchmarks._zoo_networks import ZOO

    return [f"{name} {mode}" for name, entry in ZOO.items() for mode in entry.modes]


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _apart(name: str, mode: str) -> Result:
    """What a process of its own measures; or why it could not."""
    command = [sys.executable, "-m", "benchmarks.zoo", "--one", name, mode]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=LONGEST,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"it took more than {LONGEST:.0f} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {"failed": lines[-1]}
    found: Result = json.loads(done.stdout.strip().splitlines()[-1])
    return found


# -- one network, in a process of its own ----------------------------------------------------------------------


class Clock:
    """Adds up processor seconds, and wall-clock seconds, of what it runs; keeps why something was refused."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.wall: dict[str, float] = {}
        self.refused: dict[str, str] = {}

    def run(self, what: str, function: Callable[[], Any]) -> Any:
        from kdsnn.errors import UserError

        before, started = time.process_time(), time.perf_counter()
        try:
            return function()
        except UserError as error:
            self.refused[what] = " ".join(str(error).split())
            return None
        finally:
            self.seconds[what] = round(time.process_time() - before, 2)
            self.wall[what] = round(time.perf_counter() - started, 2)


def measure(name: str, mode: str) -> Result:
    """Lower a network, prove it, and let every verb work on it."""
    import resource
    import warnings

    warnings.simplefilter("ignore")
    clock = Clock()
    from benchmarks import _zoo_networks as zoo

    kdsnn = _imports()
    clock.seconds["imports"] = round(time.process_time(), 2)  # since the process began
    module, shape = zoo.build(name, mode), zoo.ZOO[name].shape
    result: Result = {"shape": list(shape), "rates": [round(rate, 3) for rate in zoo.firing_rates(module, shape, mode)]}
    clock.run("forward", lambda: zoo.forward(module, shape, mode))
    network = clock.run("lower", lambda: kdsnn.lower(module, input_shape=shape, T=zoo.T))
    if network is not None:
        proof = network.proof
        result["layers"], result["samples"] = len(network.graph.neurons), proof.samples
        result |= {"compared": proof.compared, "ties": proof.ties, "differences": proof.differences}
        del module
        with tempfile.TemporaryDirectory() as folder:
            result["files"] = _files(kdsnn, clock, network, Path(folder))
        result["check"] = {}
        for target in ("loihi1", "loihi2"):
            found = clock.run(f"check {target}", lambda target=target: kdsnn.check(network, target))
            result["check"][target] = None if found is None else found.verdict
        images = _images(shape, network.graph.shapes[network.graph.output_name][0])
        clock.run("profile", lambda: kdsnn.profile(network, images))
    result |= {"refused": clock.refused, "seconds": clock.seconds, "wall": clock.wall}
    result["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return result


def _imports() -> Any:
    import torch  # noqa: F401
    from spikingjelly.activation_based import neuron  # noqa: F401

    import kdsnn
    from kdsnn.deploy import check, export, lower, profile  # noqa: F401  the verbs are imported when they are first used

    return kdsnn


def _files(kdsnn: Any, clock: Clock, network: Any, folder: Path) -> Result:
    """Each format by itself: what was written and verified."""
    found: Result = {}
    for name in ("onnx", "netx", "nir"):
        written = clock.run(name, lambda name=name: kdsnn.export(network, folder, to=[name]))
        if written is not None:
            (file,) = written.files
            found[name] = {
                "bytes": file.bytes,
                "verified": file.verified,
                "mismatches": file.mismatches,
                "ties": file.ties,
            }
            Path(file.path).unlink()
    return found


def _images(shape: tuple[int, ...], classes: int) -> tuple[Any, ...]:
    import numpy as np

    count = max(SAMPLES, classes)
    # what reads a vector is given images of one line
    x = np.random.default_rng(0).integers(0, 256, (count, *((1, *shape) if len(shape) == 1 else shape)), np.uint8)
    labels = np.arange(count) % classes
    return x, labels, x, labels


# -- the page --------------------------------------------------------------------------------------------------

HEAD = """# SpikingJelly's zoo

Every network below is SpikingJelly's own, at full width, unmodified, with 10 classes where it lets one choose, T = 4, and
random weights under which its neurons fire. `python -m benchmarks zoo` writes this page, from docs/results/zoo.json.

* **faithful**: every neuron layer is fed the module's own spikes and must give its spikes; spikes compared, *ties* where the
  membrane lies within rounding of its threshold, and other differences, of which there must be none.
* **ONNX**, **netx**, **NIR**: written, read back and every spike of every layer compared, or the reason why not.
* **check**: the verdict for Loihi 1 and Loihi 2. The ImageNet networks get 64 × 64 pixels, the VGGs 32 × 32.
* **the numbers**: processor seconds, on one thread, of one forward of one image, of lowering with its proof, and of the commands `check` (the slower
  chip), `export` (ONNX and netx) and `profile` (16 images), each with imports and lowering; peak memory of all of them in
  one process. On a machine that does other work, as this one did, caches are shared, and the same work takes more.
  A row keeps the figures of the run that measured it, and does not show what was made faster since; the line below is of the run that
  was made last. Of spiking_resnet18, both versions run side by side on one thread (29 November 2026), placement by sums up to each place took
  `check` for Loihi 1 from 4.5 to 2.7 processor seconds and `profile` from 8.5 to 6.9, to the same bytes. Files are verified on 16
  samples, or on fewer where these hold more than 2²³ spikes together, which older rows of large networks do not show yet.

The largest on two idle cores (29 November 2026):

<!--=zoo_idle.wall|table-->
| a |
|---|
| b |

What `lower` takes beside a forward, on spiking_resnet18 (29 November 2026, best of two on one thread, 0.89<!--=lowering.seconds.all--> s; one forward of the one
image that the proof takes there is 0.05<!--=lowering.seconds.forward--> s, in float64 0.14<!--=lowering.seconds.forward_in_float64--> s): 0.35<!--=lowering.seconds.graph--> s for the graph, whose layers are found by running the
forward on symbols, whose neurons are tried on test currents and whose weights are folded in float64; 0.23<!--=lowering.seconds.module_in_float64--> s for the module in float64, copy of
its weights included, and 0.15<!--=lowering.seconds.graph_in_float64--> s for the graph in float64, which are the proof and 2.8<!--=lowering.forwards--> forwards of that type; 0.15<!--=lowering.seconds.quantization--> s for the
quantization of 11 million weights. The first and the last do not depend on samples. The proof stays in float64, where rounding decides nothing.
So `lower` is 18 forwards in float32. Three is below the floor: a proof needs the module once and the graph once, which in float64 are
5.8<!--=lowering.forwards_in_float64--> forwards in float32, and 2 in float32; what else it takes, 0.5<!--=lowering.seconds.not_by_samples--> s, is spent on 11 million weights and not on samples.

"""


def page(results: Mapping[str, Any]) -> str:
    """The page in markdown."""
    machine = ", ".join(f"{key}: {value}" for key, value in results["machine"].items())
    text = [HEAD.rstrip("\n"), "", f"Measured on: {machine}.", ""]
    text += [
        "| network | mode | input | faithful: compared, ties, differences | ONNX | netx | NIR | check Loihi 1 | check Loihi 2 |"
        " forward | lower | check | export | profile | peak |",
        "|---|---|---|---|---|---|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    reasons: dict[str, int] = {}
    known = results["networks"]
    for key, found in ((key, known[key]) for key in all_networks() if key in known):
        name, mode = key.rsplit(" ", 1)
        text.append("| " + " | ".join([name, mode, *_cells(found, reasons)]) + " |")
    if missing := [key for key in all_networks() if key not in known]:
        text += ["", f"Not measured yet: {', '.join(missing)}."]
    if reasons:
        text += ["", "Why not:", ""]
        text += [f"{number}. {reason}" for reason, number in reasons.items()]
    return "\n".join(text) + "\n"


def _cells(found: Result, reasons: dict[str, int]) -> list[str]:
    def why(reason: str) -> str:
        return f"no ({reasons.setdefault(reason, len(reasons) + 1)})"

    if "failed" in found:
        return ["–", why(found["failed"]), *["–"] * 11]
    seconds, refused = found["seconds"], found["refused"]
    shape = "×".join(map(str, found["shape"]))
    forward = f"{seconds['forward']:.2f}"
    if "lower" in refused:
        return [shape, why(refused["lower"]), *["–"] * 5, forward, *["–"] * 4, _gigabytes(found)]
    faithful = f"{found['compared']:,}, {found['ties']}, {found['differences']}"
    files = [_file(found["files"].get(name)) or why(refused[name]) for name in ("onnx", "netx", "nir")]
    checks = [found["check"].get(chip) or why(refused[f"check {chip}"]) for chip in ("loihi1", "loihi2")]
    start = seconds["imports"] + seconds["lower"]
    commands = [
        max(seconds["check loihi1"], seconds["check loihi2"]), seconds["onnx"] + seconds["netx"], seconds["profile"],
    ]  # fmt: skip
    timed = [f"{seconds['lower']:.1f}", *(f"{start + each:.1f}" for each in commands)]
    if "profile" in refused:
        timed[-1] = why(refused["profile"])
    return [shape, faithful, *files, *checks, forward, *timed, _gigabytes(found)]


def _file(written: Mapping[str, int] | None) -> str:
    if written is None:
        return ""
    found = [f"{written['verified']:,} spikes"]
    found += [f"{written['ties']:,} tie{'s' if written['ties'] > 1 else ''}"] if written["ties"] else []
    return ", ".join([*found, *([f"{written['mismatches']:,} differ"] if written["mismatches"] else [])])


def _gigabytes(found: Result) -> str:
    return f"{found['peak'] / 2**30:.1f} GiB"


if __name__ == "__main__":
    main()
