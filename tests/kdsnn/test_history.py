import csv
import sys

import pytest

from kdsnn.errors import KdsnnError
from kdsnn.train.history import EpochRecord, tensorboard, write_csv

RECORDS = (
    EpochRecord(1, 2.25, 0.5, 1.5, 0.1, (0.25, 0.5)),
    EpochRecord(2, 1.125, 0.75, 1.25, 0.05, (0.5, 0.75)),
)


def test_csv(tmp_path):
    path = tmp_path / "new" / "history.csv"
    write_csv(path, RECORDS[:1])
    write_csv(path, RECORDS)
    with path.open() as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["epoch", "loss", "accuracy", "lr", "seconds", "accuracy_t1", "accuracy_t2"],
        ["1", "2.25", "0.5", "0.1", "1.500", "0.25", "0.5"],
        ["2", "1.125", "0.75", "0.05", "1.250", "0.5", "0.75"],
    ]
    assert [p.name for p in path.parent.iterdir()] == ["history.csv"]


def test_tensorboard(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with tensorboard(tmp_path) as write:
        for record in RECORDS:
            write(record)
    found = reader.EventAccumulator(str(tmp_path))
    found.Reload()
    assert [(e.step, e.value) for e in found.Scalars("loss")] == [(1, 2.25), (2, 1.125)]
    assert [e.value for e in found.Scalars("accuracy by step/t1")] == [0.25, 0.5]


def test_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(KdsnnError, match="not installed"), tensorboard(tmp_path):
        pass
