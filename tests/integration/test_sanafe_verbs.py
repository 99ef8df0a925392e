"""`export --to sanafe` writes a description, and `run --on sanafe` needs SANA-FE in an environment of its own."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from kdsnn.deploy import sanafe
from profilers import report
from tests.integration.test_cli import cli, error_line

INSTALLED = os.environ.get("KDSNN_SANAFE")


def test_a_description_is_written_and_what_is_missing_is_said(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KDSNN_SANAFE", raising=False)
    found = json.loads(cli("export", student, "--to", "sanafe", "--out", tmp_path, "--json").stdout)
    (file,) = found["files"]
    assert (file["format"], file["verified"]) == ("sanafe", 0)
    assert "5 layers" in file["contents"] and file["contents"].endswith("not run, SANA-FE is not known here")
    assert len(found["quantization"]) == 4  # it holds integers
    text = (tmp_path / "tiny.sanafe.yaml").read_text(encoding="utf-8")
    assert text.startswith("# SANA-FE 2: architecture, network and mappings") and "FILE FILE 9\n" in text
    assert "not known here: make an environment of its own" in error_line("run", student, "--on", "sanafe")
    profiled = ("profile", student, "--simulate", "--out", tmp_path / "report")
    assert "not known here: make an environment of its own" in error_line(*profiled)
    monkeypatch.setenv("KDSNN_SANAFE", sys.executable)
    assert "SANA-FE simulates loihi1; add --target loihi1" in error_line(*profiled, "--target", "loihi2")
    assert not (tmp_path / "report" / "report.json").exists()
    assert "is written and run, not read" in error_line("check", tmp_path / "tiny.sanafe.yaml", "--target", "loihi1")


def test_costs_are_told_per_sample() -> None:
    costs = sanafe.ChipCosts(np.array([[1e-6, 2e-6], [1e-6, 4e-6]]), np.array([[1e-5, 1e-5], [1e-5, 3e-5]]))
    rows = {row[0]: row[1:] for row in sanafe.cost_table("x", costs).rows}
    assert rows["energy, all 2 steps"] == ("4.00 µJ", "3.00–5.00 µJ")
    assert rows["time, all steps"] == ("30.0 µs", "20.0–40.0 µs")
    assert rows["energy × time"] == ("130 pJ·s", "60.0–200 pJ·s")
    joined = sanafe.joined_costs([costs, None, costs])
    assert joined is not None and joined.joules.shape == (4, 2)
    assert sanafe.joined_costs([None]) is None


@pytest.mark.skipif(not INSTALLED, reason="needs SANA-FE: set KDSNN_SANAFE to the Python that has it")
def test_sana_fe_agrees_on_every_spike(student: Path, tmp_path: Path) -> None:
    found = json.loads(cli("run", student, "--on", "emulator,sanafe", "--samples", 3, "--json").stdout)
    (comparison,) = found["comparisons"]
    assert comparison["ok"] and comparison["must_agree"] and comparison["hidden"] == 0 < comparison["hidden_compared"]
    costs = found["costs"]["sanafe"]
    assert np.shape(costs["joules"]) == np.shape(costs["seconds"]) == (3, 9)
    written = json.loads(cli("export", student, "--to", "sanafe", "--out", tmp_path, "--json").stdout)["files"][0]
    assert written["verified"] > 0 and written["mismatches"] == 0


@pytest.mark.skipif(not INSTALLED, reason="needs SANA-FE: set KDSNN_SANAFE to the Python that has it")
def test_a_report_has_the_simulation_beside_the_models(student: Path, tmp_path: Path) -> None:
    words = (
        "--samples",
        3,
        "--simulate",
        "--target",
        "loihi1",
        "--format",
        "json",
        "--format",
        "html",
        "--out",
        tmp_path,
    )
    cli("profile", student, *words)
    made = report.Report.from_json((tmp_path / "report.json").read_text(encoding="utf-8"))
    (deployment,) = made.students[0].deployments
    ran = deployment.simulated
    assert ran is not None and (ran.samples, ran.mismatching_spikes) == (3, 0) and ran.compared_spikes > 0
    assert sum(ran.seconds_by_step) == pytest.approx(ran.seconds.nominal) and len(ran.joules_by_step) == 9
    # its constants are those of this model, which knows no contention
    model = next(t for t in deployment.times if t.model == "loihi1-sanafe-times")
    assert model.latency.nominal == pytest.approx(ran.seconds.nominal, rel=0.2)
    assert f"0 of {ran.compared_spikes:,} spikes differ" in (tmp_path / "report.html").read_text(encoding="utf-8")
