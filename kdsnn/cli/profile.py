"""`kdsnn-deploy profile`: what a network costs, as a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdsnn.cli.options import Bits, Data, InputBits, InputShape, Json, OutDir, Timesteps, Weights, writable_folder


def profile(
    source: Annotated[
        str, typer.Argument(help="A checkpoint (.safetensors), a netx file (.net), or package.module:factory.")
    ],
    out: OutDir,
    teacher: Annotated[Path | None, typer.Option(help="Checkpoint of the ANN to set beside it.")] = None,
    twin: Annotated[Path | None, typer.Option(help="Checkpoint of the same student trained without a teacher.")] = None,
    data: Data = "digits",
    samples: Annotated[int | None, typer.Option(min=1, help="How many test images; all by default.")] = None,
    bits: Bits = 8,
    input_bits: InputBits = 8,
    weights: Weights = None,
    input_shape: InputShape = None,
    timesteps: Timesteps = None,
    json: Json = False,
) -> None:
    """Count parameters, FLOPs, spikes, SynOps and energy; write report.html, report.json and layers.csv."""
    import shlex
    import sys

    from kdsnn import checkpoint
    from kdsnn.cli.console import print_json, table
    from kdsnn.cli.counting import count
    from kdsnn.cli.images import load_images
    from kdsnn.cli.run import pixels
    from kdsnn.cli.source import load, require_fit
    from kdsnn.errors import KdsnnError
    from profilers import report
    from profilers.flops import count_module

    writable_folder(out)
    network = load(source, bits=bits, input_bits=input_bits, T=timesteps, weights=weights, input_shape=input_shape)
    images = load_images(data, quiet=json)
    ann = None
    if teacher is not None:
        module, info = checkpoint.load(teacher)
        if info.spiking:
            raise KdsnnError(f"--teacher {teacher}: this is a spiking network; give the checkpoint of an ANN")
        ann = report.Teacher(info.model, info.metrics.get("test_accuracy"), count_module(module, info.input_shape))
    require_fit(network.name, network.integer.input.shape, images)
    x, labels = pixels(images.x_test[:samples]), images.y_test[:samples]
    students = [count(network.name, network, x, labels, quiet=json)]
    if twin is not None:
        other = load(str(twin), bits=bits, input_bits=input_bits)
        students.append(count(other.name, other, x, labels, twin=True, quiet=json))
    made = report.build(
        f"{network.name} on {data}",
        shlex.join(["kdsnn-deploy", *sys.argv[1:]]),
        students,
        teacher=ann,
        data=f"{len(x)} test images of {data}",
    )
    paths = report.write(made, out)
    if json:
        print_json({name: str(path) for name, path in paths.items()})
    else:
        table(*summary(made))
        for path in paths.values():
            print(path)


def summary(made: object) -> tuple[str, list[str], list[list[str]]]:
    """The closing table of a report: one row per network."""
    from kdsnn.cli.console import percent, si
    from profilers.report import Report

    assert isinstance(made, Report)
    models = [m for m in made.energies if m.name in DEMO_ENERGY_MODELS]
    columns = [
        "network",
        "accuracy",
        "parameters",
        "FLOPs (thop)",
        "MACs",
        "SynOps",
        "spikes",
        *(m.title for m in models),
    ]
    rows = []
    if made.teacher is not None:
        t = made.teacher
        energies = [si(m.ann.nominal, "J") if m.ann else "–" for m in models]
        accuracy = "–" if t.accuracy is None else percent(t.accuracy)
        rows.append(
            [
                f"{t.name} (ANN teacher)",
                accuracy,
                f"{t.counts.parameters:,}",
                si(t.counts.thop),
                si(t.counts.macs),
                "–",
                "–",
                *energies,
            ]
        )
    for student in made.students:
        for kind, run in (("float", student.float_run), ("quantised", student.quantised_run)):
            if run is None:
                continue
            energies = []
            for m in models:
                row = next((s for s in m.students if s.student == student.name), None)
                fits = row is not None and row.estimate is not None and row.arithmetic == run.arithmetic
                energies.append(si(row.estimate.nominal, "J") if fits and row and row.estimate else "–")
            accuracy = "–" if run.accuracy is None else percent(run.accuracy)
            rows.append(
                [
                    f"{student.name} ({kind})",
                    accuracy,
                    f"{run.parameters:,}",
                    "–",
                    si(run.macs_once),
                    si(run.synops.mean),
                    si(run.spikes.mean),
                    *energies,
                ]
            )
    return made.title, columns, rows


DEMO_ENERGY_MODELS = ("horowitz-45nm-fp32", "horowitz-45nm-int8", "loihi1-events")
