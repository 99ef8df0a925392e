"""Text files that a Windows editor saved, with a byte order mark in front."""

from pathlib import Path

import hardware.chips.limits as chips
from kdsnn.train import EpochRecord
from kdsnn.train.history import read_csv, write_csv
from profilers.energy import models

MARK = b"\xef\xbb\xbf"


def marked(source: Path, folder: Path) -> Path:
    path = folder / source.name
    path.write_bytes(MARK + source.read_bytes())
    return path


def test_a_mark_changes_no_target_and_no_energy_model(tmp_path: Path) -> None:
    for file in sorted(chips._DATA.glob("*.json")):
        assert chips.load(marked(file, tmp_path)) == chips.load(file)
    for file in sorted(models._DATA.glob("*.json")):
        assert models.load(marked(file, tmp_path)) == models.load(file)


def test_a_mark_changes_no_history(tmp_path: Path) -> None:
    history = (EpochRecord(1, 0.5, 0.25, 1.0, 0.1, ()),)
    write_csv(tmp_path / "h.csv", history)
    (tmp_path / "h.csv").write_bytes(MARK + (tmp_path / "h.csv").read_bytes())
    assert read_csv(tmp_path / "h.csv") == history
