"""Distill a spiking student, lower it, export it, run it, check it, profile it: one function a verb.

    import kdsnn
    data = kdsnn.load_data("digits")
    teacher = kdsnn.pretrain("preresnet20", data)
    student = kdsnn.distill("cnn2", data, teacher=teacher, T=4)
    net = kdsnn.lower(student, bits=4, calibrate=data)
    kdsnn.export(net, "exported", to=["onnx", "netx"])
    print(kdsnn.run(net, data, on=["torch", "emulator", "lava"]))
    print(kdsnn.check(net, "loihi1"))
    kdsnn.profile(net, data, teacher=teacher).write("report")

Every verb of the command line is one of these, with the same name and the same option names. Results are frozen
dataclasses that print as the command's tables do and give `.to_frame()` (pandas) and `.to_dict()`. What is wrong and can
be put right is a `UserError`. Names come in on demand, so that importing this takes no time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kdsnn.siblings import require_siblings

if TYPE_CHECKING:
    from kdsnn.deploy.benchmark import BenchmarkResult, benchmark
    from kdsnn.deploy.check import CheckResult, check
    from kdsnn.deploy.demo import DemoResult, demo
    from kdsnn.deploy.distill import distill
    from kdsnn.deploy.evaluate import Evaluation, evaluate
    from kdsnn.deploy.export import ExportResult, export
    from kdsnn.deploy.images import load_data
    from kdsnn.deploy.load import load
    from kdsnn.deploy.lower import lower
    from kdsnn.deploy.lowered import Lowered
    from kdsnn.deploy.predict import Predictions, predict
    from kdsnn.deploy.pretrain import pretrain
    from kdsnn.deploy.profile import profile
    from kdsnn.deploy.run import RunResult, run
    from kdsnn.deploy.seeds import SeedRuns
    from kdsnn.deploy.summary import Summary, summary
    from kdsnn.deploy.trained import TrainedNetwork
    from kdsnn.errors import KdsnnError, UserError

require_siblings()  # here, since their absence would show anywhere, as a module that has no such attribute

_HOMES = {
    "__version__": "version",
    "benchmark": "deploy.benchmark",
    "BenchmarkResult": "deploy.benchmark",
    "check": "deploy.check",
    "CheckResult": "deploy.check",
    "demo": "deploy.demo",
    "DemoResult": "deploy.demo",
    "distill": "deploy.distill",
    "evaluate": "deploy.evaluate",
    "Evaluation": "deploy.evaluate",
    "export": "deploy.export",
    "ExportResult": "deploy.export",
    "load_data": "deploy.images",
    "load": "deploy.load",
    "lower": "deploy.lower",
    "Lowered": "deploy.lowered",
    "predict": "deploy.predict",
    "Predictions": "deploy.predict",
    "pretrain": "deploy.pretrain",
    "profile": "deploy.profile",
    "run": "deploy.run",
    "RunResult": "deploy.run",
    "SeedRuns": "deploy.seeds",
    "summary": "deploy.summary",
    "Summary": "deploy.summary",
    "TrainedNetwork": "deploy.trained",
    "KdsnnError": "errors",
    "UserError": "errors",
}

__all__ = [
    "BenchmarkResult", "CheckResult", "DemoResult", "Evaluation", "ExportResult", "KdsnnError", "Lowered", "Predictions", "RunResult", "SeedRuns",
    "Summary", "TrainedNetwork", "UserError", "benchmark", "check", "demo", "distill", "evaluate", "export", "load", "load_data", "lower", "predict",
    "pretrain", "profile", "run", "summary",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
