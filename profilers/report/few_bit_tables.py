"""These tables set trained ANNs of few bits beside the students: sizes, bits moved, energy, break-even, equal accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from profilers.energy.evaluation import Counts
from profilers.energy.models import Range
from profilers.report.cells import NONE, Cell, Row, Table, joules, share_text
from profilers.report.data import ModelEnergies, NetworkRun, ReportData
from profilers.report.few_bit import FewBitAnn
from profilers.report.numbers import SPACE, memory, number, percent, quantity, spread


def few_bit(report: ReportData) -> list[Table]:
    """All tables of this section come in order; none without ANNs of few bits, or without a student beside them."""
    if not report.few_bit or report.head is None:
        return []
    equal = at_equal_accuracy(report)
    return [side_by_side(report), energy(report), *([equal] if equal else [])]


_MOVED = (
    ("Weights read", ("weight_bits", "spike_weight_bits")),
    ("Activations moved", ("activation_bits",)),
    ("Spikes moved", ("synops",)),
    ("Membranes read and written", ("membrane_bits",)),
    ("Outputs written", ("result_bits", "spike_writes")),
)
"""What is moved, and the counts that say how many bits of it."""


def side_by_side(report: ReportData) -> Table:
    """Students and ANNs of few bits have one column each: accuracy, sizes, bit budget, bits moved."""
    runs = [s.deployed for s in report.students]
    columns = [Cell("")]
    columns += [Cell(s.name, (f"T = {s.deployed.T}",)) for s in report.students]
    columns += [Cell(a.name, (f"{a.bits}-bit weights", f"{a.activation_bits}-bit activations")) for a in report.few_bit]

    def row(label: str, hint: str, of_run: Callable[[NetworkRun], str], of_ann: Callable[[FewBitAnn], str]) -> Row:
        return Row(label, (*(Cell(of_run(run)) for run in runs), *(Cell(of_ann(ann)) for ann in report.few_bit)), hint)

    rows = [
        row("Accuracy", "", lambda run: share_text(run.accuracy), lambda ann: share_text(ann.accuracy)),
        row("Parameters", "", lambda run: number(run.parameters), lambda ann: number(ann.counts.parameters)),
        row("Weight memory", "", lambda run: memory(run.weight_bits), lambda ann: memory(ann.weight_bits)),
        row("Operations", "SynOps; MACs that are not zero", _operations, lambda ann: quantity(ann.active)),
        row("Bit budget", "all operations × bits", lambda run: quantity(run.budget.dense), lambda a: quantity(a.budget.dense)),
        row("Bit budget", "those not skipped", lambda run: quantity(run.budget.done), lambda a: quantity(a.budget.done)),
        *(
            row(label, "bits per sample", lambda run, names=names: _moved(run.counts, names), lambda ann, names=names: _moved(ann.dense, names))  # type: ignore[misc]
            for label, names in _MOVED
        ),
    ]  # fmt: skip
    notes = (
        "Moved is counted for one dataflow: layer by layer, sums stay where they are added up, and nothing else is kept. "
        "Every operation reads its weight; activations go to each of their multiply-accumulates, zeros too, a spike to each "
        "synapse it reaches; membranes are read and written once per step. Hardware that reuses moves less. Bit budget: operations × "
        "bits of weight and activation × steps (Shen et al., CVPR 2024).",
    )
    return Table("few-bit", "Beside trained ANNs of few bits, means per sample", tuple(columns), tuple(rows), notes)


def energy(report: ReportData) -> Table:
    """The rows are the models that price both; numbers compare along a row only."""
    rows = []
    for model in report.energies:
        if not any(one.dense for one in model.few_bit):
            continue
        cells = [Cell(joules(s.estimate)) if s.estimate else Cell("no entry") for s in model.students]
        for one in model.few_bit:
            skipped = (f"zeros skipped {joules(one.zero_skipping)}",) if one.zero_skipping else ()
            cells.append(Cell(joules(one.dense), skipped) if one.dense else Cell("not counted"))
        cells.append(_break_even(report, model))
        rows.append(Row(model.title, tuple(cells), model.basis))
    columns = [Cell("Model"), *(Cell(s.name) for s in report.students), *(Cell(a.name) for a in report.few_bit)]
    columns.append(Cell("Break-even rate", (f"of {report.students[0].name}", "spikes per input and step")))
    notes = (
        "Break-even: the rate of spikes per input and time step of layers fed by spikes at which the student would take the energy of "
        "the first ANN, no zeros skipped; 0 means that pixels and membranes at every step take more already. Only the row of Yan et al. prices all that is moved, and Lemaire’s in words of 16 bits; the "
        "others price arithmetic.",
        *((report.equal_accuracy.refusal,) if report.equal_accuracy and report.equal_accuracy.refusal else ()),
    )
    return Table("few-bit-energy", "Energy beside trained ANNs of few bits", tuple(columns), tuple(rows), notes)


def at_equal_accuracy(report: ReportData) -> Table | None:
    """The rows are the models that price all networks; None where nothing was compared."""
    equal = report.equal_accuracy
    if equal is None or not equal.rows:
        return None
    titles: Mapping[str, str] = {model.name: model.title for model in report.energies}
    rows = [
        Row(
            titles[row.model],
            (
                Cell(percent(row.accuracy, 2)),
                Cell(spread(row.students, "J")),
                Cell(spread(row.anns, "J")),
                Cell(f"{spread(_ratio(row.students, row.anns))}{SPACE}×"),
            ),
        )
        for row in equal.rows
    ]
    columns = (Cell("Model"), Cell("Accuracy"), Cell("Students"), Cell("Quantized ANNs"), Cell("Students ÷ ANNs"))
    notes = (
        "At the highest accuracy that both kinds reach, ANNs without zeros skipped; between two networks of a kind that no other of it beats, energy is taken "
        "to be linear in accuracy.",
    )
    return Table("equal-accuracy", "Energy at equal accuracy", columns, tuple(rows), notes)


def _ratio(a: Range, b: Range) -> Range:
    ratios = [getattr(a, bound) / getattr(b, bound) for bound in ("low", "nominal", "high")]
    return Range(min(ratios), ratios[1], max(ratios))


def _break_even(report: ReportData, model: ModelEnergies) -> Cell:
    even, run = model.few_bit[0].break_even, report.students[0].deployed
    if even is None or run.spikes_per_synapse is None:
        return Cell()
    low, high = (bound / run.T for bound in (even.low, even.high))
    if low > 1:
        text = f"above {percent(1, 0)}"  # more than there can be: the student takes less at any rate
    else:
        text = (
            percent(low)
            if low == high
            else f"{percent(low)} – {percent(high) if high <= 1 else 'above ' + percent(1, 0)}"
        )
    return Cell(text, (f"own {percent(run.spikes_per_synapse / run.T)}",))


def _operations(run: NetworkRun) -> str:
    return quantity(run.synops.mean + run.macs_repeated)


def _moved(counts: Counts, names: tuple[str, ...]) -> str:
    found = [counts.values[name].nominal for name in names if name in counts.values]
    return quantity(sum(found), "bit") if found and sum(found) else NONE
