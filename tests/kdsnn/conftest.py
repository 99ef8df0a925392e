"""Training in tests calculates alike on every machine."""

import pytest


@pytest.fixture(autouse=True)
def one_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let "auto" mean fp32: results are compared with references that know no bf16, also where the processor does."""
    monkeypatch.setattr("kdsnn.train.precision.faster_in_bf16", lambda device: False)
