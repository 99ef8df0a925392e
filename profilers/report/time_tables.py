"""These tables of a report are about time: latency, throughput, energy per inference and energy-delay product."""

from __future__ import annotations

from collections.abc import Iterator

from profilers.energy.models import Range
from profilers.energy.timing import EnergyDelay, TimeEstimate
from profilers.report.cells import Cell, Row, Table, plural
from profilers.report.data import Deployment, ReportData, Student
from profilers.report.numbers import number, percent, quantity, spread
from profilers.text_table import TextTable, table

UNKNOWN = "not known"

NOTES = (
    "Estimates, not measurements of these networks. A range runs from low constants with all units of a core at work at the "
    "same time to high constants with one after the other; models draw different boundaries: compare along a row, never "
    "down a column.",
    "Latency is of one inference alone: T steps and one more for each layer on the chip. Throughput is of inferences that "
    "follow each other, T steps each. Time of the host, which encodes pixels where a chip takes none, is not counted.",
    "Energy per inference is of one alone, with static power over its latency where the energy model has it; the "
    "energy-delay product is that energy × that latency.",
)


def timed(report: ReportData) -> list[tuple[Student, Deployment, TimeEstimate]]:
    """Every estimate of every student, chip by chip and model by model, so that rows that compare stand together."""
    found = [(s, d, time) for s in report.students for d in s.deployments for time in d.times]
    order = list(dict.fromkeys((d.target, time.model) for _, d, time in found))
    return sorted(found, key=lambda row: order.index((row[1].target, row[2].model)))


def models(report: ReportData) -> list[TimeEstimate]:
    """One estimate of every model, for what it says of the model."""
    return list({time.model: time for _, _, time in timed(report)}.values())


def times(report: ReportData) -> Table | None:
    """One row per step-time model and student; None where nobody was placed on a chip with such a model."""
    rows = []
    for student, deployment, time in timed(report):
        label = time.title if len(report.students) == 1 else f"{student.name}: {time.title}"
        products = time.products or (None,)
        cells = (
            Cell(duration(time.latency, time), (plural(time.steps, "step"),)),
            Cell(rate(time), (f"{duration(time.step, time)} a step",)),
            _stacked([UNKNOWN if p is None else span(p.energy, "J") for p in products], [*map(_priced_by, products)]),
            _stacked([UNKNOWN if p is None else product(p) for p in products], [*map(_priced_by, products)]),
            critical(time),
        )
        rows.append(Row(label, cells, f"{time.basis} · {plural(deployment.cores, 'core')}"))
    rows += _simulated(report)
    if not rows:
        return None
    headings = (
        "Step-time model",
        "Latency",
        "Throughput",
        "Energy per inference",
        "Energy-delay product",
        "Critical core",
    )
    runs = {d.simulated.simulator: d.simulated.note for s in report.students for d in s.deployments if d.simulated}
    notes = (*NOTES, *(f"{name}: {note}" for name, note in runs.items()))
    return Table("time", "Time per sample under each model", tuple(map(Cell, headings)), tuple(rows), notes)


def _simulated(report: ReportData) -> Iterator[Row]:
    """A row for every run of a simulator: least to most over its samples, and whether its spikes are the emulator's."""
    for student in report.students:
        for deployment in student.deployments:
            if (ran := deployment.simulated) is None:
                continue
            agreement = (
                f"{number(ran.mismatching_spikes)} of {number(ran.compared_spikes)} spikes differ from the emulator’s"
            )
            slowest = max(range(len(ran.seconds_by_step)), key=ran.seconds_by_step.__getitem__)
            cells = (
                Cell(
                    span(ran.seconds, "s"),
                    (plural(len(ran.seconds_by_step), "step"), f"mean {quantity(ran.seconds.nominal, 's')}"),
                ),
                Cell(UNKNOWN, (f"slowest step {slowest + 1}: {quantity(ran.seconds_by_step[slowest], 's')}",)),
                Cell(span(ran.joules, "J"), (f"mean {quantity(ran.joules.nominal, 'J')}, without static power",)),
                Cell(span(ran.product, "J·s"), (f"mean {quantity(ran.product.nominal, 'J·s')}",)),
                Cell(UNKNOWN, (agreement,)),
            )
            name = ran.simulator if len(report.students) == 1 else f"{student.name}: {ran.simulator}"
            yield Row(name, cells, f"simulated · {plural(ran.samples, 'sample')}")


def time_table(report: ReportData) -> TextTable | None:
    """The same for a terminal: models by name, and of energy models the first that knows static power."""
    rows = []
    for student, _, time in timed(report):
        p = next((p for p in time.products if p.static), next(iter(time.products), None))
        energies = [UNKNOWN] * 2 if p is None else [span(p.energy, "J"), product(p)]
        names = [student.name, time.model, "–" if p is None else p.model]
        rows.append([*names, duration(time.latency, time), rate(time), *energies, critical(time).text])
    columns = (
        "network",
        "step-time model",
        "energy model",
        "latency",
        "throughput",
        "energy",
        "energy × delay",
        "critical core",
    )
    title = "time per sample; latency and energy of one inference alone, throughput of inferences back to back"
    return table(title, columns, rows) if rows else None


def duration(seconds: Range, time: TimeEstimate) -> str:
    """Seconds are a range, or a bound."""
    return f"≥ {spread(seconds, 's')}" if time.at_least else span(seconds, "s")


def span(found: Range, unit: str) -> str:
    """A range whose ends are far apart has a prefix at each, since one for both would hide the smaller one."""
    if found.high > 1000 * found.low > 0:
        return f"{quantity(found.low, unit)} – {quantity(found.high, unit)}"
    return spread(found, unit)


def rate(time: TimeEstimate) -> str:
    """Inferences per second are a range, or a bound."""
    period = time.period
    if period.low <= 0:
        return UNKNOWN
    found = span(Range(1 / period.high, 1 / period.nominal, 1 / period.low), "/s")
    return f"≤ {found}" if time.at_least else found


def product(found: EnergyDelay) -> str:
    """Joule seconds are a range."""
    return span(found.product, "J·s")


def critical(time: TimeEstimate) -> Cell:
    """The core that decides, and its layer."""
    if time.core is None or time.share is None:
        return Cell(UNKNOWN)
    return Cell(f"{number(time.core)}, {time.layer}", (f"in {percent(time.share, 0)} of steps, by its {time.unit}",))


def _priced_by(found: EnergyDelay | None) -> str:
    if found is None:
        return "no energy model of this chip"
    return f"by {found.model}, with{'' if found.static else 'out'} static power"


def _stacked(texts: list[str], whose: list[str]) -> Cell:
    """The first of several in large, the others below it."""
    return Cell(texts[0], (whose[0], *_others(texts, whose)))


def _others(texts: list[str], whose: list[str]) -> Iterator[str]:
    for text, name in list(zip(texts, whose, strict=True))[1:]:
        yield f"{text} {name}"
