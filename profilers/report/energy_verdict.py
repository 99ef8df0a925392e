"""What a report decides about energy: against each rival, with denser input, and what the answer hangs on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from profilers.energy.models import Range
from profilers.energy.operations import twin_bits
from profilers.report.cells import joules, plural
from profilers.report.comparing import (
    Key,
    Pair,
    Price,
    Tally,
    alike_only,
    as_range,
    beside_own_shape,
    compared,
    contenders,
    first_layer,
    listed,
    moves_data,
    outcome,
    prices,
    share,
    tally,
)
from profilers.report.data import ReportData, Student
from profilers.report.numbers import percent, spread
from profilers.report.parties import Party, enumerated, overlap, parties
from profilers.report.sentences import Sentence
from profilers.report.time_tables import span

BETTER = "Is it better than a trained quantized ANN?"
DENSER = "Does the saving survive denser input?"
DENSER_BY = 2
"""So many times the spikes are asked for: the least that anybody would call denser."""

OWN_SHAPE = "a dense ANN of its shape"


# -- the second question ------------------------------------------------------------------------------------


def quantized_ann(report: ReportData, head: Student) -> Sentence:
    """Accuracy and energy beside the first trained ANN of few bits, data movement apart."""
    if not report.few_bit:
        bits = twin_bits(head.deployed.T)
        text = (
            f"Whether {head.name} is better than a trained ANN of few bits is unknown: none was given. Train one with "
            f"pretrain --quantize-activations {bits} and give it as --qann."
        )
        return Sentence("quantized ANN", text, BETTER, "unknown")
    found_by = {party.key: party for party in parties(report)}
    own, ann = found_by["student", head.name], found_by["quantized ANN", report.few_bit[0].name]
    accuracy, in_short = _accuracy(own, ann)
    found, moving = (_tally(report, own, ann, lambda price: price.either, moving=only) for only in (False, True))
    if found.all:
        words, energy_short = (
            f"whether the ANN skips zeros or not, {found.words(own.name, 'energy', ann.label)}",
            _few(found),
        )
    else:
        words, energy_short = f"no model here prices both {own.name} and {ann.label}", "unknown"
    moved = f"with it, {_few(moving)}" if moving.all else "no model here prices that of both"
    parts = [f"Accuracy: {accuracy}.", f"Energy: {words}.", f"Data movement: {moved}.", *_equal(report)]
    return Sentence("quantized ANN", " ".join(parts), BETTER, f"{in_short}; energy: {energy_short}")


def _few(found: Tally) -> str:
    """In few words: "less under 4, more under 1 of 6 models"."""
    return f"less under {len(found.less)}, more under {len(found.more)} of {plural(len(found.all), 'model')}"


def _accuracy(own: Party, ann: Party) -> tuple[str, str]:
    """In words, and in few."""
    if own.accuracy is None or ann.accuracy is None:
        return "unknown without labels", "accuracy unknown"
    pair = f"{own.label} {own.accuracy_text}, {ann.label} {ann.accuracy_text}"
    if own.interval is None or ann.interval is None:
        return f"{pair}; on how many samples is not known, so nothing is established", "accuracy not comparable"
    if overlap(own, ann):
        return (
            f"{pair}; the 95 % intervals overlap, so no difference is established",
            "accuracy: no difference established",
        )
    word = "more" if own.accuracy > ann.accuracy else "less"
    return f"{own.name} is {word} accurate beyond 95 % intervals ({pair})", f"{word} accurate"


def _equal(report: ReportData) -> list[str]:
    """The comparison at equal accuracy, where several networks allow it."""
    equal = report.equal_accuracy
    if equal is None or not equal.rows:
        return []
    titles = {model.name: model.title for model in report.energies}
    found = tally((titles[row.model], row.students, row.anns) for row in equal.rows)
    accuracies = dict.fromkeys(percent(row.accuracy, 2) for row in equal.rows)
    words = found.words("the front of the students", "energy", "that of the quantized ANNs")
    return [f"At equal accuracy ({enumerated(accuracies, 'or')}, no zeros skipped): {words}."]


# -- energy, rival by rival -----------------------------------------------------------------------------------


def energy(report: ReportData, head: Student) -> Iterator[Sentence]:
    """Who takes least under which model, and the first student beside every other network."""
    all_of = parties(report)
    own = next(party for party in all_of if party.key == ("student", head.name))
    yield from _least(report, {party.key: party.label for party in all_of})
    for rival in all_of:
        if rival is own:
            continue
        if rival.kind in ("teacher", "quantized ANN"):
            yield Sentence("energy", f"Energy: {_against_ann(report, own, rival)}.")
        elif (found := _tally(report, own, rival)).all:
            yield Sentence("energy", f"Energy: {found.words(own.name, 'energy', rival.label)}.")
        else:
            yield Sentence("energy", f"Energy: no model counts {own.name} and {rival.label} alike.")


def _least(report: ReportData, labels: dict[Key, str]) -> Iterator[Sentence]:
    """Under each model those networks are left than which no other is established to take less, zeros skipped or not."""
    groups: dict[tuple[Key, ...], list[str]] = {}
    for model in report.energies:
        priced = alike_only(prices(model, report))
        if len(priced) > 1:
            groups.setdefault(contenders(priced), []).append(model.title)
    if not groups:
        return
    many = sum(map(len, groups.values()))
    parts = []
    for names, titles in sorted(groups.items(), key=lambda group: (len(group[0]), -len(group[1]))):
        who = enumerated([labels[name] for name in names], "or")
        parts.append(f"{who} under {len(titles)} ({listed(titles)})")
    text = (
        f"of the {plural(many, 'model')} that price more than one network, the least is taken by {'; by '.join(parts)}"
    )
    several = any(len(names) > 1 for names in groups)
    open_ = " Where several are named, none of them is established as the least." if several else ""
    yield Sentence("energy", f"Energy: {text}.{open_}")


def _tally(
    report: ReportData, own: Party, rival: Party, of: Callable[[Price], Range | None] = lambda price: price.dense,
    *, moving: bool = False,
) -> Tally:  # fmt: skip
    """One network beside another under every model that compares them, or those alone that price data movement."""
    found = compared(report, own.key, rival.key, of)
    return tally(
        (m.title, price.dense, theirs) for m, price, theirs in found if not moving or moves_data(price.estimate)
    )


def _against_ann(report: ReportData, own: Party, ann: Party) -> str:
    """The first student beside an ANN that multiplies zeros too, and one that does not; without the full stop."""
    dense = _tally(report, own, ann)
    skipping = _tally(report, own, ann, lambda price: None if price.skipping is None else as_range(price.skipping))
    if not dense.all:
        return f"no model here prices both {own.name} and {ann.label}"
    words = dense.words(own.name, "energy", ann.label)
    if skipping == dense:
        return f"{words}, whether the ANN’s zeros are skipped or not"
    if not skipping.all:
        return f"{words}; with zeros skipped the ANN was not counted"
    return (
        f"{words}, if the ANN multiplies zeros too; if it skips them, {skipping.words(own.name, 'energy', ann.label)}"
    )


# -- the third question ----------------------------------------------------------------------------------------


def denser_input(report: ReportData, head: Student) -> Sentence:
    """What becomes of a saving when all that spikes cause happens twice as often. The rival, a trained ANN of few bits or else
    a dense ANN of the student's shape, multiplies every zero, so that its own energy does not change."""
    rival, pairs = _rivals(report, head)
    if not pairs:
        text = f"Whether a saving survives denser input is unknown: no model here prices both {head.name} and {rival}."
        return Sentence("input", text, DENSER, "unknown")
    kept: list[str] = []
    lost: list[str] = []
    without: list[str] = []
    for title, own, theirs in pairs:
        if outcome(own.dense, theirs) != "less":
            without.append(title)
        else:
            doubled = own.of(own.estimate.breakdown, DENSER_BY)
            (kept if outcome(doubled, theirs) == "less" else lost).append(title)
    parts = [
        f"{what} under {share(titles, len(pairs))} ({listed(titles)})"
        for what, titles in (
            (f"the saving against {rival} survives twice the spikes", kept),
            (f"{'that' if kept else f'a saving against {rival}'} is no longer established with twice the spikes", lost),
            (f"no saving{'' if kept or lost else f' against {rival}'} is established in the first place", without),
        )
        if titles
    ]
    text = f"Denser input: {'; '.join(parts)}. The ANN multiplies every zero here. {_measured(report, head)}"
    short = f"at twice the spikes: under {share(kept, len(pairs))}" if kept or lost else "no saving is established"
    return Sentence("input", text, DENSER, short)


def _rivals(report: ReportData, head: Student) -> tuple[str, list[Pair]]:
    """Who the saving is against, and both under each model: the first trained ANN of few bits, or a dense ANN of the
    student's own shape."""
    if report.few_bit:
        ann = next(party for party in parties(report) if party.kind == "quantized ANN")
        return ann.label, [
            (model.title, price, theirs) for model, price, theirs in compared(report, ("student", head.name), ann.key)
        ]
    return OWN_SHAPE, beside_own_shape(report, head.name)


def _measured(report: ReportData, head: Student) -> str:
    """How spikes grow with the events of the input, where that was measured."""
    sweep = report.density
    if sweep is None:
        option = " (--density does)" if head.deployed.events_in_by_step else ""
        return f"How the spikes grow with the input was not measured{option}."
    half = next((point for point in sweep.points if point.kept == 0.5), None)
    if half is None or not sweep.points[0].synops.mean:
        return "How the spikes grow with the input was not measured."
    share = half.synops.mean / sweep.points[0].synops.mean
    return f"Measured on {plural(sweep.samples, 'sample')}: half of the events bring {percent(share, 0)} of the SynOps of all."


# -- what the answer hangs on ------------------------------------------------------------------------------------


def depends(report: ReportData, head: Student) -> Iterator[Sentence]:
    """Which of data movement, the first layer and static power would turn an outcome around."""
    rival, pairs = _rivals(report, head)
    if pairs:
        yield from _on_movement(head.name, rival, pairs)
        yield from _on_first_layer(head.name, rival, pairs)
    yield from _on_static(report, head)


def _on_movement(name: str, rival: str, pairs: list[Pair]) -> Iterator[Sentence]:
    moving, alone = (
        tally((title, own.dense, theirs) for title, own, theirs in pairs if moves_data(own.estimate) == moves)
        for moves in (True, False)
    )
    if not moving.all or not alone.all:
        which = "no model here" if not moving.all else "every model here"
        yield Sentence("depends", f"Data movement: {which} prices it, so what hangs on it is not told.")
        return
    found = [{kind for kind in ("less", "more", "open") if getattr(side, kind)} for side in (moving, alone)]
    hangs = "the answer hangs on it" if found[0] != found[1] else "the answer is the same without it"
    sides = [
        f"{what} ({listed(side.all)}) energy of {name} against {rival} is {_few(side)}"
        for what, side in (("priced", moving), ("not priced", alone))
    ]
    yield Sentence("depends", f"Data movement: {hangs}. Where it is {sides[0]}; where it is {sides[1]}.")


def _on_first_layer(name: str, rival: str, pairs: list[Pair]) -> Iterator[Sentence]:
    """MACs on analog input are done once per sample, or again at every step: is the outcome another one?"""
    words = {"less": "less", "more": "more", "open": "no difference established"}
    turned: dict[str, list[str]] = {}
    asked = 0
    for title, own, theirs in pairs:
        if (both := first_layer(own.estimate.breakdown)) is None:
            continue
        asked += 1
        once, every = (words[outcome(own.of(lines), theirs)] for lines in both)
        if once != every:
            turned.setdefault(f"{once} if once, {every} if at every step,", []).append(title)
    if not asked:
        return
    if turned:
        parts = [f"{what} under {share(titles, asked)} ({listed(titles)})" for what, titles in turned.items()]
        text = f"the answer hangs on how often it is computed: energy of {name} against {rival} is {'; '.join(parts)}"
    else:
        text = f"computed once or at every step, it changes no outcome against {rival} under any of {plural(asked, 'model')}"
    yield Sentence("depends", f"First layer (MACs on the analog input): {text}.")


def _on_static(report: ReportData, head: Student) -> Iterator[Sentence]:
    """Static power, by the seconds that the user gave or over the latency of a step-time model; one energy model at a time."""
    for model in report.energies:
        estimate = next((s.estimate for s in model.students if s.student == head.name), None)
        if estimate is None:
            continue
        placed = head.on(model.target)
        if estimate.static is not None:
            text = f"{spread(estimate.static, 'J')} of {joules(estimate)} under {listed([model.title])}, by the seconds given"
            yield Sentence("depends", f"Static power: {text}.")
        elif placed is not None:
            totals = [
                (t.title, p.energy) for t in placed.times for p in t.products if p.model == model.name and p.static
            ]
            if not totals:
                continue
            found = [f"{span(total, 'J')} (time: {listed([title])})" for title, total in totals]
            hangs = [total for _, total in totals if outcome(as_range(estimate), total) == "less"]
            which = "decides" if len(hangs) == len(totals) else "may decide"
            yield Sentence(
                "depends", f"Static power {which}: under {listed([model.title])} an inference takes {joules(estimate)} without it, and with it, "
                f"over its latency, {enumerated(found, 'or')}.",
            )  # fmt: skip
