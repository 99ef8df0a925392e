"""`kdsnn-deploy demo`: the whole chain on built-in real digits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdsnn.cli.options import Json, Seed, writable_folder


def demo(
    out: Annotated[Path, typer.Option("--out", help="The folder to write into; made if missing.")] = Path(
        "demo-output"
    ),
    lava_samples: Annotated[int, typer.Option(min=1, help="Test images that run on Lava.")] = 40,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Train, distill, quantize, export, run and compare on scikit-learn's digits, in about two minutes.

    Exits with 1 when two backends differ that must not.
    """
    from hardware.lava import environment
    from kdsnn.cli.places import sole_writer

    environment.python_path()  # without Lava there is no demo: say so before training
    writable_folder(out)
    with sole_writer(out / "demo"):
        _demo(out, lava_samples, seed, json)


def _demo(out: Path, lava_samples: int, seed: int, json: bool) -> None:
    import shlex
    import sys
    import time

    from kdsnn.cli import training
    from kdsnn.cli.console import print_json, table
    from kdsnn.cli.counting import comparison_rows, count, count_ann, place_all
    from kdsnn.cli.export import Format, write
    from kdsnn.cli.images import Pixels
    from kdsnn.cli.run import as_rows, print_tables, run_all
    from kdsnn.cli.source import load
    from kdsnn.data import load as load_data
    from profilers import report

    started = time.perf_counter()
    images = load_data("digits")
    recipe = training.recipe_for("digits")
    teach, learn = (training.configured(c, seed=seed) for c in (recipe.pretrain, recipe.distill))

    first = training.Training(
        "1/6 teacher", recipe.teacher, out / "teacher.safetensors", images, teach, {}, quiet=json, label="teacher"
    )
    teacher, _, _ = training.train_and_save(first)
    second = training.Training(
        "2/6 student, distilled", recipe.student, out / "student.safetensors", images, learn, recipe.student_options,
        method="response", teacher=teacher, quiet=json, label="distilled", others={"teacher": out / "teacher.csv"},
    )  # fmt: skip
    training.train_and_save(second)
    training.train_and_save(second.twin("3/6 student, alone", out / "twin.safetensors"))

    student, twin = load(str(out / "student.safetensors")), load(str(out / "twin.safetensors"))
    exported = [write(student, format_, out, seed=seed) for format_ in (Format.onnx, Format.netx)]
    x, labels = images.x_test, images.y_test
    runs, found = run_all(
        student, ["torch", "onnx", "emulator", "lava"], Pixels(x, student.input_shape), lava_samples=lava_samples,
        quiet=json, title="4/6 ",
    )  # fmt: skip
    students = [
        count("student", student, x, labels, quiet=json, title="5/6 "),
        count("twin", twin, x, labels, twin=True, quiet=json, title="6/6 "),
    ]
    students, placements, notes = place_all(students, [student, twin], x, quiet=json)
    made = report.build(
        "KDSNN on digits",
        shlex.join(["kdsnn-deploy", *sys.argv[1:]]),
        students,
        teacher=count_ann(out / "teacher.safetensors", images, x, quiet=json),
        placements=placements,
        notes=notes,
        comparisons=comparison_rows(runs, found, labels),
        data=f"{len(x)} test images of scikit-learn's digits, seed {seed}",
    )
    paths = [*report.write(made, out).values(), *(Path(row["path"]) for row in exported)]
    paths += [out / f"{name}.safetensors" for name in ("teacher", "student", "twin")]
    seconds = time.perf_counter() - started
    if json:
        print_json(
            as_rows(runs, found, labels)
            | {"report": str(out / "report.json"), "files": [str(p) for p in paths], "seconds": seconds}
        )
    else:
        table(*report.closing_table(made))
        print_tables("the distilled student on every backend", runs, found, labels)
        for path in paths:
            print(path)
        print(f"finished in {seconds:.0f} s")
    if not all(c.ok for c in found):
        raise typer.Exit(1)
