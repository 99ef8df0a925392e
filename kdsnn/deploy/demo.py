"""The verb `demo`: the whole chain on built-in real digits."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsnn.deploy.counting import comparison_rows, count, count_ann
from kdsnn.deploy.export import write
from kdsnn.deploy.few_bit import count_few_bit, named
from kdsnn.deploy.formats import Wanted
from kdsnn.deploy.images import Pixels, load_data
from kdsnn.deploy.lower import lower
from kdsnn.deploy.on_chip import place_all
from kdsnn.deploy.places import sole_writer, writable_folder
from kdsnn.deploy.precision import with_precision
from kdsnn.deploy.progress import Progress, silent
from kdsnn.deploy.recipes import configured, recipe_for
from kdsnn.deploy.run import RunResult, run_all
from kdsnn.deploy.starting import require_new
from kdsnn.deploy.tables import Result
from kdsnn.deploy.training import Training, train_and_save
from profilers.text_table import TextTable

if TYPE_CHECKING:
    from kdsnn.deploy.trained import TrainedNetwork
    from profilers.report import Report


@dataclass(frozen=True, eq=False, repr=False)
class DemoResult(Result):
    """What the chain gave.

    Attributes:
        report: costs of teacher, student, twin and the student's shape as a trained ANN of few bits.
        result: the student on every back end.
        files: everything that was written.
        seconds: how long it took.
    """

    report: Report
    result: RunResult
    files: tuple[Path, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """False where two back ends differ that must not."""
        return self.result.ok

    def tables(self) -> tuple[TextTable, ...]:
        """Costs, back ends, comparisons."""
        from profilers.report import closing_table

        return (closing_table(self.report), *self.result.tables())

    def __str__(self) -> str:
        from profilers.report import verdict_text

        return f"{verdict_text(self.report)}\n\n{super().__str__()}"

    __repr__ = __str__

    def rows(self) -> list[dict[str, Any]]:
        """One row per back end."""
        return self.result.rows()

    def to_dict(self) -> dict[str, Any]:
        """Runs, comparisons, and where everything is."""
        files = [str(path) for path in self.files]
        report = next(text for text in files if text.endswith("report.json"))
        return {**self.result.to_dict(), "report": report, "files": files, "seconds": self.seconds}


def demo(
    out: str | Path = "demo-output",
    *,
    lava_samples: int = 40,
    overwrite: bool = False,
    seed: int = 0,
    command: str = "kdsnn.demo",
    progress: Progress = silent,
) -> DemoResult:
    """Train, distill, quantize, export, run and compare on scikit-learn's digits, in about two minutes.

    Args:
        out: the folder to write into; made if missing.
        lava_samples: test images that run on Lava.
        overwrite: replace the networks of a demo that was here before.
        seed: makes it repeatable.
        command: how it came about, printed in the report.
        progress: told how far it is.

    Raises:
        DeployError: there is no Lava environment; OptionError: networks lie in `out` already; OSError: the folder cannot be
            written.
    """
    from hardware.lava import environment

    out = Path(out)
    environment.python_path()  # without Lava there is no demo: say so before training
    writable_folder(out)
    started = time.perf_counter()
    with sole_writer(out / "demo"):
        networks = [out / f"{name}.safetensors" for name in ("teacher", "student", "twin", "quantized-ann")]
        require_new(networks, overwrite=overwrite)
        teacher = _train(out, seed, progress)
        made, result, exported = _measure(out, teacher, lava_samples, seed, command, progress)
        paths = [*made.write(out).values(), *exported]
        paths += networks
    return DemoResult(made, result, tuple(paths), time.perf_counter() - started)


def _train(out: Path, seed: int, progress: Progress) -> TrainedNetwork:
    """Teacher, student, twin and quantized ANN, as checkpoints in `out`; returns the teacher."""
    from profilers.energy.operations import twin_bits

    images = load_data("digits")
    recipe = recipe_for(images)
    both = (configured(c, seed=seed) for c in (recipe.pretrain, recipe.distill))
    teach, learn = (with_precision(c, None, resume=False) for c in both)
    teacher = train_and_save(
        Training("1/7 teacher", recipe.teacher, images, teach, out=out / "teacher.safetensors", label="teacher"),
        progress,
    )
    student = Training(
        "2/7 student, distilled", recipe.student, images, learn, recipe.student_options, out / "student.safetensors",
        method="response", teacher=teacher.module, label="distilled", others={"teacher": out / "teacher.csv"},
    )  # fmt: skip
    train_and_save(student, progress)
    train_and_save(student.twin("3/7 student, alone", out / "twin.safetensors"), progress)
    # the student's shape as an ANN, trained as an ANN is and for as long as the student
    ann = configured(teach, epochs=learn.epochs)
    train_and_save(
        Training(
            "4/7 quantized ANN", recipe.student, images, ann, recipe.student_options, out / "quantized-ann.safetensors",
            label="quantized ANN", activation_bits=twin_bits(learn.T), quantize=8,
        ),
        progress,
    )  # fmt: skip
    return teacher


def _measure(
    out: Path, teacher: TrainedNetwork, lava_samples: int, seed: int, command: str, progress: Progress
) -> tuple[Report, RunResult, list[Path]]:
    from profilers import report

    images = load_data("digits")
    student, twin = lower(out / "student.safetensors"), lower(out / "twin.safetensors")
    exported = [write(student, wanted, out, seed=seed) for wanted in (Wanted("onnx"), Wanted("netx"))]
    x, labels = images.x_test, images.y_test
    runs, found, refused = run_all(
        student, ["torch", "onnx", "emulator", "lava"], Pixels(x, student.input_shape, images.graded), lava_samples=lava_samples,
        title="5/7 ", progress=progress,
    )  # fmt: skip
    result = RunResult("the distilled student on every backend", tuple(runs), tuple(found), labels, refused)
    students = [
        count("student", student, x, labels, title="6/7 ", progress=progress),
        count("twin", twin, x, labels, twin=True, title="7/7 ", progress=progress),
    ]
    placed = place_all(students, [student, twin], x, progress=progress)
    counted, notes = count_ann(teacher, images, x, labels, progress=progress)
    quantized = [
        count_few_bit(name, ann, images, x, labels, progress=progress)
        for name, ann in named(out / "quantized-ann.safetensors").items()
    ]
    made = report.build(
        "KDSNN on digits",
        command,
        placed.students,
        teacher=counted,
        placements=placed.placements,
        fits=placed.fits,
        seeds={"training and export": seed},
        few_bit=quantized,
        notes=[*notes, *placed.notes],
        comparisons=comparison_rows(runs, found, labels),
        data=f"{len(x)} test images of scikit-learn's digits, seed {seed}",
    )
    return made, result, [Path(file.path) for file in exported]
