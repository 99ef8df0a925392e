"""`neurobench.json` has the metrics of NeuroBench's algorithm track, under the names of NeuroBench's own result files."""

from __future__ import annotations

import json
from typing import Any

from exporters.errors import DeployError
from profilers.report.data import NetworkRun, ReportData


def render(report: ReportData) -> str:
    """One object per network and run, as `Benchmark.save_benchmark_results` of NeuroBench 2.3 writes it.

    Raises:
        DeployError: there is no spiking network, or one that was not counted in NeuroBench's way.
    """
    found = {}
    for student in report.students:
        for name, run in (("float", student.float_run), ("quantized", student.quantized_run)):
            if run is not None:
                found[f"{student.name} ({name})"] = _results(student.name, run)
    if not found:
        raise DeployError("neurobench.json is about spiking networks, and there is none; leave out --format neurobench")
    return json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _results(name: str, run: NetworkRun) -> dict[str, Any]:
    metrics = run.neurobench
    if metrics is None:
        raise DeployError(f"{name} was not counted in NeuroBench's way; profile it again")
    accuracy = {} if run.accuracy is None else {"ClassificationAccuracy": run.accuracy}
    return {
        "Footprint": metrics.footprint,
        "ParameterCount": metrics.parameter_count,
        "ConnectionSparsity": metrics.connection_sparsity,
        **accuracy,
        "ActivationSparsity": metrics.activation_sparsity,
        "SynapticOperations": {
            "Effective_MACs": metrics.effective_macs,
            "Effective_ACs": metrics.effective_acs,
            "Dense": metrics.dense,
        },
    }
