"""The KDSNN paper's Tables 1, 2, 3 and 4: its figures, ours, their difference and the spread over seeds.

    python -m benchmarks kdsnn_tables --list
    python -m benchmarks kdsnn_tables --out DIR                           all of them, with the paper's sizes: weeks of GPU
    python -m benchmarks kdsnn_tables --out DIR --rows 3,7 --epochs 60 --seeds 0 --data cifar10=npz:cifar10.npz
    python -m benchmarks kdsnn_tables --table 3 [--checkpoint FILE ...]    sizes and costs, no training

Every network that is trained is a cell with a file name of its own in DIR/cells: a checkpoint, its history, its
curves, and a JSON file once it is finished. A run that is killed goes on where it was; a finished cell is never
trained again; rows that need the same teacher or twin share it. Teachers are trained once, with the first seed.
DIR/tables.md and DIR/tables.csv are written after every cell, DIR/table3.md and DIR/table3.csv at the end.
"""

from __future__ import annotations

import argparse
import csv
import functools
import itertools
import json
import statistics
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from exporters.files import atomic_path
from kdsnn.cli.console import progress, say
from kdsnn.cli.texts import settings_of
from kdsnn.data import Augmentation, DataSet, Noise, load
from kdsnn.deploy import training
from kdsnn.digest import digest_json
from kdsnn.errors import KdsnnError
from kdsnn.train.config import TrainConfig

CONFIG = Path(__file__).with_suffix(".toml")


@dataclass(frozen=True)
class Row:
    """One line of a table: a pair and a method on a data set. The paper's figures are accuracies in %."""

    table: int
    data: str
    student: str
    teacher: str
    method: str
    noise: Mapping[str, Any] = field(default_factory=dict)
    readout: str = "rate"
    neuron: str = "if"
    student_options: Mapping[str, Any] = field(default_factory=dict)
    teacher_options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)  # of `TrainConfig`, for the student and its twin
    paper: float | None = None
    paper_alone: float | None = None
    paper_teacher: float | None = None

    @property
    def shown_data(self) -> str:
        """The data set as a reader wants it."""
        noise = self.noise and f", noise {self.noise['sigma']:g} ({self.noise.get('kind', 'std')})"
        return self.data + (noise or "")

    @property
    def shown_student(self) -> str:
        """The student with what makes it another than the architecture's own."""
        settings = [f"{name} {value:g}" for name, value in self.settings.items()]
        special = [*([] if self.readout == "rate" else [self.readout]), *settings]
        return f"{self.student} ({', '.join(special)})" if special else self.student


@dataclass(frozen=True)
class Cell:
    """One network to train; equal cells are trained once."""

    data: str
    noise: Mapping[str, Any]
    augment: Mapping[str, Any]
    model: str
    options: Mapping[str, Any]
    method: str  # "pretrain" for a teacher
    config: TrainConfig
    readout: str = "rate"
    neuron: str = "if"
    teacher: Cell | None = None

    @property
    def name(self) -> str:
        """File name without ending: readable, and different for cells that differ in anything."""
        parts = [
            self.data.split(":")[0],
            self.model,
            self.method,
            f"s{self.config.seed}",
            digest_json(asdict(self))[:10],
        ]
        return "-".join(parts).replace("+", "_")


@dataclass(frozen=True)
class Plan:
    """What to run: the rows, and per name of a data set how to train."""

    rows: tuple[Row, ...]
    sets: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...]
    sources: Mapping[str, str]
    changes: Mapping[str, Any]
    teacher_changes: Mapping[str, Any]

    def teacher(self, row: Row) -> Cell:
        """The teacher of a row."""
        return self._cell(row, row.teacher, row.teacher_options, "pretrain", self.seeds[0], self.teacher_changes)

    def student(self, row: Row, seed: int) -> Cell:
        """The distilled student."""
        made = self._cell(row, row.student, row.student_options, row.method, seed, self.changes)
        return replace(made, readout=row.readout, neuron=row.neuron, teacher=self.teacher(row))

    def alone(self, row: Row, seed: int) -> Cell:
        """The same student without a teacher."""
        made = self._cell(row, row.student, row.student_options, "none", seed, self.changes)
        return replace(made, readout=row.readout, neuron=row.neuron)

    def cells(self) -> Iterator[Cell]:
        """Every cell once, a teacher before its students."""
        seen = set()
        for row in self.rows:
            students = ((self.student(row, seed), self.alone(row, seed)) for seed in self.seeds)
            for cell in (self.teacher(row), *itertools.chain.from_iterable(students)):
                if cell.name not in seen:
                    seen.add(cell.name)
                    yield cell

    def _cell(
        self, row: Row, model: str, options: Mapping[str, Any], method: str, seed: int, changes: Mapping[str, Any]
    ) -> Cell:
        base, plus, variants = row.data.partition("+")
        common = self.sets.get(base, {})
        pretrain = method == "pretrain"
        settings = {**common.get("pretrain" if pretrain else "distill", {}), **({} if pretrain else row.settings)}
        settings |= {**changes, "seed": seed}
        try:
            config = TrainConfig(**settings)
        except TypeError as error:
            raise KdsnnError(f"sets.{base}: {error}: use the settings of kdsnn.train.config.TrainConfig.") from error
        source = self.sources.get(base, self.sources.get("", base))
        return Cell(source + plus + variants, row.noise, common.get("augment", {}), model, options, method, config)


def read_config(path: Path) -> tuple[tuple[Row, ...], dict[str, Any], tuple[int, ...]]:
    """Rows, settings per data set, and seeds of a TOML or JSON file; `kdsnn_tables.toml` is the example.

    Raises KdsnnError when the file cannot be read or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        rows = tuple(row for entry in found["rows"] for row in _expanded(entry))
        return rows, dict(found.get("sets", {})), tuple(found.get("seeds", (0, 1, 2)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise KdsnnError(f"{path}: not a configuration ({error}): see {CONFIG.name} for its form.") from error


def _expanded(entry: Mapping[str, Any]) -> Iterator[Row]:
    """Lists of data sets, students, teachers, read-outs and methods stand for every combination."""
    entry = {"readout": "rate", **entry}
    keys = ("data", "student", "teacher", "readout", "method")
    lists = [entry[key] if isinstance(entry[key], list) else [entry[key]] for key in keys]
    for chosen in itertools.product(*lists):
        yield Row(**{**entry, **dict(zip(keys, chosen, strict=True))})


@functools.lru_cache(maxsize=1)
def _data(spec: str, noise: tuple[tuple[str, Any], ...]) -> DataSet:
    wanted = dict(noise)
    made = Noise.on(wanted.get("on", "train,test"), wanted["sigma"], wanted.get("kind", "std")) if wanted else None
    return load(spec, noise=made)


def finished(cell: Cell, folder: Path) -> dict[str, Any] | None:
    """The result of a cell that needs no training any more."""
    result, weights = folder / f"{cell.name}.json", folder / f"{cell.name}.safetensors"
    return dict(json.loads(result.read_text())) if result.exists() and weights.exists() else None


def run_cell(cell: Cell, folder: Path) -> dict[str, Any]:
    """The result of a cell: from its file, or trained now, or trained on from where a killed run was.

    Raises KdsnnError as `kdsnn.train` does, and when its teacher's files are missing.
    """
    from kdsnn import checkpoint

    if (done := finished(cell, folder)) is not None:
        return done
    weights = folder / f"{cell.name}.safetensors"
    teacher, others = None, {}
    if cell.teacher is not None:
        teacher, _ = checkpoint.load(folder / f"{cell.teacher.name}.safetensors")
        others = {"teacher": folder / f"{cell.teacher.name}.csv"}
    pretrain = cell.method == "pretrain"
    job = training.Training(
        cell.name, cell.model, _data(cell.data, tuple(cell.noise.items())), cell.config, cell.options, weights,
        method=None if pretrain else cell.method, teacher=teacher, readout=cell.readout, neuron=cell.neuron,  # type: ignore[arg-type]
        augmentation=Augmentation(**cell.augment) or None, resume=True, label="teacher" if pretrain else cell.method,
        others=others,
    )  # fmt: skip
    with progress() as told:
        trained = training.train_and_save(job, told)
    found = {
        "cell": asdict(cell),
        "accuracy": trained.accuracy,
        "by_step": trained.history[-1].by_step,
        "seconds": sum(r.seconds for r in trained.history),
    }
    with atomic_path(folder / f"{cell.name}.json") as temporary:
        temporary.write_text(json.dumps(found, indent=1))
    return found


COLUMNS = (
    "table", "data", "student", "method", "teacher", "teacher, paper", "teacher, ours", "alone, paper", "alone, ours",
    "distilled, paper", "distilled, ours", "difference", "gain, paper", "gain, ours", "95 % interval", "seeds",
)  # fmt: skip


def table_rows(plan: Plan, results: Mapping[str, float]) -> list[list[str]]:
    """Cells of the table as text, in %; empty where the paper's figure is not at hand or a cell is not finished."""
    rows = []
    for row in plan.rows:
        of_student = [results[c.name] for s in plan.seeds if (c := plan.student(row, s)).name in results]
        of_alone = [results[c.name] for s in plan.seeds if (c := plan.alone(row, s)).name in results]
        of_teacher = [results[c.name] for c in [plan.teacher(row)] if c.name in results]
        mine, without = (statistics.mean(v) if v else None for v in (of_student, of_alone))
        rows.append([
            str(row.table), row.shown_data, row.shown_student, row.method, row.teacher, _figure(row.paper_teacher), _spread(of_teacher), _figure(row.paper_alone),
            _spread(of_alone), _figure(row.paper), _spread(of_student), _difference(mine, row.paper),
            _difference(row.paper, row.paper_alone), _difference(mine, without), _interval(plan, row, results),
            str(len(of_student)),
        ])  # fmt: skip
    return rows


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _spread(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation over the seeds."""
    if len(values) < 2:
        return f"{values[0]:.2f}" if values else ""
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def _difference(a: float | None, b: float | None) -> str:
    return "" if a is None or b is None else f"{a - b:+.2f}"


def _interval(plan: Plan, row: Row, results: Mapping[str, float]) -> str:
    """Where the gain over the twin lies, from the differences seed by seed (Student's t); empty below two seeds."""
    from scipy.stats import t

    pairs = [(plan.student(row, seed).name, plan.alone(row, seed).name) for seed in plan.seeds]
    found = [results[a] - results[b] for a, b in pairs if a in results and b in results]
    if len(found) < 2:
        return ""
    half = float(t.ppf(0.975, len(found) - 1)) * statistics.stdev(found) / len(found) ** 0.5
    return f"{statistics.mean(found) - half:+.2f} … {statistics.mean(found) + half:+.2f}"


def write_tables(
    folder: Path, name: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]
) -> None:
    """`folder`/NAME.md and NAME.csv, each whole or not at all."""
    lines = [f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows)]
    with atomic_path(folder / f"{name}.md") as temporary:
        temporary.write_text("\n".join([*lines, "", *(f"* {note}" for note in notes), ""]), encoding="utf-8")
    with atomic_path(folder / f"{name}.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])


NOTES = (
    "Test accuracies in %, after the last epoch; ± is the sample standard deviation over the seeds; differences in points.",
    "An empty cell under “paper” is a figure that the configuration does not give; under “ours”, a network not trained yet.",
    "The paper gives single runs and not its training settings. Ours are in the configuration and in every checkpoint.",
)


def run(plan: Plan, out: Path) -> None:
    """Train what is not finished and write the tables after every cell."""
    folder = out / "cells"
    folder.mkdir(parents=True, exist_ok=True)
    notes = [*NOTES, f"Command: `python -m benchmarks kdsnn_tables {' '.join(sys.argv[1:])}`"]
    cells = list(plan.cells())
    results = {cell.name: 100 * done["accuracy"] for cell in cells if (done := finished(cell, folder))}
    for number, cell in enumerate(cells, start=1):
        try:
            results[cell.name] = 100 * run_cell(cell, folder)["accuracy"]
        except KdsnnError as error:  # one cell that diverges does not end the others
            say(f"{cell.name}: {error}")
            continue
        finally:
            write_tables(out, "tables", COLUMNS, table_rows(plan, results), notes)
        say(f"{number} of {len(cells)} cells, {cell.name}: {results[cell.name]:.2f} %")
    print((out / "tables.md").read_text())
    if len(results) < len(cells):
        raise SystemExit(f"{len(cells) - len(results)} of {len(cells)} networks could not be trained, see above")


def run_table_3(out: Path, checkpoints: Sequence[Path], samples: int, data: str | None) -> None:
    """Write Table 3, with what the students in `checkpoints` cost; see `benchmarks._kdsnn_table3`."""
    from benchmarks._kdsnn_table3 import table_3

    write_tables(out, "table3", *table_3(checkpoints, samples, data))
    print((out / "table3.md").read_text())


def selected(rows: Sequence[Row], tables: Sequence[int], wanted: str | None) -> tuple[Row, ...]:
    """The rows of `tables` with the numbers, from 1, that `wanted` lists ("1,3-5"); all without it."""
    numbers = set(range(1, len(rows) + 1))
    if wanted:
        try:
            ends = [part.partition("-") for part in wanted.split(",")]
            numbers = {n for first, dash, last in ends for n in range(int(first), int(last if dash else first) + 1)}
        except ValueError as error:
            raise KdsnnError(f"--rows {wanted}: it must list numbers that --list prints, e.g. 1,3-5") from error
    found = tuple(r for n, r in enumerate(rows, 1) if n in numbers and r.table in tables)
    if not found:
        raise KdsnnError("no row is left to run: see --list for what there is")
    return found


def _sources(texts: Sequence[str], known: Mapping[str, Any]) -> dict[str, str]:
    """["cifar10=npz:x.npz"] → {"cifar10": "npz:x.npz"}; without a name before "=", for every row."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, spec = text.partition("=")
        found |= {name: spec} if equals and name in known else {"": text}
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; see the module's description."""
    parser = argparse.ArgumentParser(
        "kdsnn_tables", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=CONFIG, help="TOML or JSON; default: the paper's rows")
    parser.add_argument("--out", type=Path, default=Path("kdsnn-tables"), help="folder of cells and tables")
    parser.add_argument("--table", type=int, action="append", choices=(1, 2, 3, 4), help="only this one (repeatable)")
    parser.add_argument("--rows", help="only these, numbered as --list does, e.g. 1,3-5")
    parser.add_argument("--list", action="store_true", help="print the rows and stop")
    parser.add_argument("--seeds", help="instead of the configuration's, e.g. 0,1")
    parser.add_argument("--epochs", type=int, help="of students, instead of the configuration's")
    parser.add_argument("--teacher-epochs", type=int, help="of teachers")
    parser.add_argument("--data", action="append", default=[], help="[NAME=]SPEC, e.g. cifar10=npz:cifar10.npz")
    parser.add_argument("--set", action="append", default=[], help="a setting of students, e.g. alpha=0.5")
    parser.add_argument("--checkpoint", type=Path, action="append", default=[], help="Table 3: count this student too")
    parser.add_argument("--samples", type=int, default=200, help="Table 3: test images to count on")
    given = parser.parse_args(arguments)
    try:
        tables = given.table or [1, 2, 3, 4]
        if tables == [3]:
            run_table_3(given.out, given.checkpoint, given.samples, given.data[-1] if given.data else None)
            return
        rows, sets, seeds = read_config(given.config)
        if given.list:
            for number, row in enumerate(rows, 1):
                what = f"{row.shown_data:32} {row.shown_student:20} {row.method:9} {row.teacher}"
                print(f"{number:3}  Table {row.table}  {what}")
            return
        if given.seeds:
            seeds = tuple(int(seed) for seed in given.seeds.split(","))
        changes = settings_of(given.set) | ({"epochs": given.epochs} if given.epochs else {})
        teacher_changes = {"epochs": given.teacher_epochs} if given.teacher_epochs else {}
        chosen = selected(rows, tables, given.rows)
        plan = Plan(chosen, sets, seeds, _sources(given.data, sets), changes, teacher_changes)
        run(plan, given.out)
        if 3 in tables:
            students = [plan.student(row, seeds[0]) for row in chosen if not (row.noise or "+" in row.data)]
            made = [given.out / "cells" / f"{cell.name}.safetensors" for cell in students]
            run_table_3(given.out, [*made, *given.checkpoint], given.samples, None)
    except KdsnnError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
