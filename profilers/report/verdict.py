"""What a report decides, in plain sentences made from its numbers by rules: they open the page and every other format.

The rules, which docs/report.md states for readers:

* Accuracy: a network is called more accurate than another where their 95 % intervals do not overlap.
* Energy and time: `comparing` has the rule; models are counted and named, and numbers of two models never meet.
* Parameters and memory are exact numbers, compared as they are.
* A party that is not there is named, with the option that brings it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

from profilers.energy.models import Range
from profilers.energy.timing import TimeEstimate
from profilers.report.cells import FEWEST, plural
from profilers.report.comparing import listed, tally
from profilers.report.data import Deployment, ReportData, Student
from profilers.report.energy_verdict import denser_input, depends, energy, quantized_ann
from profilers.report.numbers import memory, number
from profilers.report.on_chips import ChipFit
from profilers.report.parties import Party, enumerated, overlap, parties, sample_text
from profilers.report.sentences import Sentence
from profilers.report.time_tables import duration, span

HOW_LONG = "How long does it take?"


def judged(report: ReportData) -> tuple[Sentence, ...]:
    """The sentences come in the order in which they are read: what keeps the first student from its chip, the answers to the
    three questions, and the rest topic by topic. Of an ANN alone only what is known of it is told."""
    head, all_of = report.head, parties(report)
    if head is None:
        return (*_accuracy(all_of), *_memory(all_of), *_unknown(report))
    return (
        *_fits(report),
        _time(report, head),
        quantized_ann(report, head),
        denser_input(report, head),
        *_accuracy(all_of),
        *_distilled(all_of),
        *energy(report, head),
        *_memory(all_of),
        *_faster(report, head),
        *depends(report, head),
        *_unknown(report),
    )


# -- chips and time --------------------------------------------------------------------------------------


def _fits(report: ReportData) -> Iterator[Sentence]:
    """What does not fit comes first, chips of the same problems together."""
    misfits: dict[tuple[object, ...], list[ChipFit]] = {}
    for fit in report.fits:
        if fit.problems:
            misfits.setdefault((fit.student, fit.problems), []).append(fit)
    for same in misfits.values():
        first = same[0].problems[0]
        where = f"{first.layer}: " if first.layer else ""
        rest = len(same[0].problems) - 1
        more = f" (and {plural(rest, 'problem')} more)" if rest else ""
        change = first.change or "kdsnn-deploy check tells more"
        titles = enumerated([fit.title for fit in same], "or")
        yield Sentence(
            "fit", f"{same[0].student} does not fit {titles}: {where}{first.what}{more}. What to change: {change}.", bad=True
        )  # fmt: skip
    fitting: dict[str, list[str]] = {}
    for student in report.students:
        chips = [fit for fit in report.fits if fit.student == student.name and not fit.problems]
        if chips:
            where = enumerated([_placed(student.on(fit.target), fit.title) for fit in chips])
            fitting.setdefault(where, []).append(student.name)
    for where, names in fitting.items():
        yield Sentence("fit", f"Chips: {enumerated(names)} {'fits' if len(names) == 1 else 'fit'} {where}.")


def _placed(deployment: Deployment | None, title: str) -> str:
    if deployment is None:
        return title
    host = f", {enumerated(deployment.host)} on the host" if deployment.host else ""
    return f"{title} ({plural(deployment.cores, 'core')}, {plural(deployment.chips, 'chip')}{host})"


def _time(report: ReportData, head: Student) -> Sentence:
    """The first question: how long one inference takes, chip by chip and model by model."""
    timed = [deployment for deployment in head.deployments if deployment.times]
    if not timed:
        misfit = any(fit.problems for fit in report.fits if fit.student == head.name)
        placed = "no step-time model covers it" if head.deployments else "its work on a chip was not counted"
        why = "it has no placement on a chip" if misfit and not head.deployments else placed
        return Sentence("time", f"How long {head.name} takes is unknown: {why}.", HOW_LONG, "unknown")
    by_chip, short = [], []
    for deployment in timed:
        found = [f"{duration(t.latency, t)} ({listed([t.title])})" for t in deployment.times]
        by_chip.append(f"on {deployment.title} {enumerated(found, 'or')}")
        short.append(f"{_latencies(deployment.times)} on {deployment.title}")
    slow = dict.fromkeys(t.layer for d in timed for t in d.times if t.layer)
    critical = f" The slowest core is of {enumerated(slow, 'or')}." if slow else ""
    text = f"One inference of {head.name} alone takes {'; '.join(by_chip)}.{critical}"
    return Sentence("time", text, HOW_LONG, "; ".join(short))


def _latencies(times: tuple[TimeEstimate, ...]) -> str:
    """From the least to the most of all models; where all of them know no more, a lower bound."""
    known = [t.latency for t in times if not t.at_least]
    if not known:
        return duration(times[0].latency, times[0])
    return span(Range(min(r.low for r in known), known[0].nominal, max(r.high for r in known)), "s")


def _faster(report: ReportData, head: Student) -> Iterator[Sentence]:
    """The first student's latency beside every other one's, on the same chip under the same model."""
    for other in report.students[1:]:
        pairs = []
        for deployment in head.deployments:
            theirs = other.on(deployment.target)
            by_model = {t.model: t for t in theirs.times} if theirs else {}
            pairs += [
                (t.title, _bounds(t), _bounds(by_model[t.model])) for t in deployment.times if t.model in by_model
            ]
        if pairs:
            text = tally(pairs).words(head.name, "time", other.name, "step-time model")
            yield Sentence("time", f"Time: {text}.")


def _bounds(time: TimeEstimate) -> Range:
    """Of a lower bound nobody knows the upper end."""
    return Range(time.latency.low, time.latency.nominal, math.inf) if time.at_least else time.latency


# -- accuracy and memory -------------------------------------------------------------------------------------


def _accuracy(all_of: tuple[Party, ...]) -> Iterator[Sentence]:
    """Who is most accurate, if the samples tell."""
    known = [party for party in all_of if party.interval is not None]
    bare = [party for party in all_of if party.accuracy is not None and party.interval is None]
    tail = "".join(f" {p.label}, {p.accuracy_text}, is not compared: on how many samples is not known." for p in bare)
    if not known:
        if tail:
            yield Sentence("accuracy", f"Accuracy:{tail}")
        return
    best = max(known, key=lambda party: party.accuracy or 0.0)
    on = sample_text(known)
    close = [party for party in known if party is not best and overlap(best, party)]
    below = [f"{party.label} {party.accuracy_text}" for party in known if party is not best and party not in close]
    if len(known) == 1:
        text = f"{best.label} is right in {best.accuracy_text}{on}; the interval holds with 95 % confidence"
    elif not close:
        text = f"{best.label} is the most accurate{on}, {best.accuracy_text}; below it, beyond 95 % intervals, {_is(below)} {enumerated(below)}"
    else:
        near = enumerated([f"{party.label} {party.accuracy_text}" for party in (best, *close)])
        text = f"nobody is established as the most accurate{on}; the 95 % intervals of {near} overlap"
        text += f"; {enumerated(below)} {_is(below)} below" if below else ""
    yield Sentence("accuracy", f"Accuracy: {text}.{tail}")


def _is(below: list[str]) -> str:
    return "is" if len(below) == 1 else "are"


def _distilled(all_of: tuple[Party, ...]) -> Iterator[Sentence]:
    """Whether the first student gained by its teacher, beside a twin that had none."""
    student = next((party for party in all_of if party.kind == "student"), None)
    for twin in all_of:
        if twin.kind != "twin" or student is None or student.interval is None or twin.interval is None:
            continue
        pair = f"{student.label} {student.accuracy_text}, {twin.label} {twin.accuracy_text}"
        if overlap(student, twin):
            text = f"that it changed the accuracy is not established ({pair})"
        else:
            better = (student.accuracy or 0) > (twin.accuracy or 0)
            text = f"the student is {'more' if better else 'less'} accurate with it ({pair})"
        yield Sentence("accuracy", f"Distillation: {text}.")


def _memory(all_of: tuple[Party, ...]) -> Iterator[Sentence]:
    """Who has the fewest parameters, and whose weights take the least memory; membranes are a spiking network's own."""
    weights = {party.label: party.weight_bits for party in all_of if party.weight_bits is not None}
    parts = [_least({party.label: party.parameters for party in all_of}, "fewest parameters", "parameters", number)]
    parts += [_least(weights, "least memory for weights", "of weights", memory)] if weights else []
    if membranes := [f"{party.label} {memory(party.membrane_bits)}" for party in all_of if party.membrane_bits]:
        parts.append(f"membranes come on top, {', '.join(membranes)}")
    yield Sentence("memory", f"Memory: {'; '.join(parts)}.")


def _least(sizes: Mapping[str, int], most: str, what: str, form: Callable[[float], str]) -> str:
    """Who has the least of something, beside all others; the numbers are exact."""
    smallest = min(sizes.values())
    least = [label for label, size in sizes.items() if size == smallest]
    others = [f"{label} {form(size)}" for label, size in sizes.items() if label not in least]
    have = f"{enumerated(least)} {'has' if len(least) == 1 else 'have'}"
    if not others:
        return f"{have} {form(smallest)} {what}{' each' if len(least) > 1 else ''}"
    return f"{have} the {most}, {form(smallest)} (others: {', '.join(others)})"


# -- what nobody knows --------------------------------------------------------------------------------------


def _unknown(report: ReportData) -> Iterator[Sentence]:
    """What the report cannot say, and the option that would let it."""
    head = report.head
    if head is not None and head.deployed.samples < FEWEST:
        samples = plural(head.deployed.samples, "sample")
        yield Sentence("unknown", f"Unknown: how counts differ between samples; {samples} are too few for an interval.")
    if all(party.accuracy is None for party in parties(report)):
        yield Sentence("unknown", "Unknown: accuracy, since the samples came without labels.")
    if head is None:
        yield Sentence(
            "unknown", "Unknown: what a spiking student would take; profile one and give this ANN as --teacher."
        )
        return
    if report.teacher is None:
        yield Sentence(
            "unknown", f"Unknown: how {head.name} does beside its teacher; give the ANN’s checkpoint as --teacher."
        )
    if all(student.role != "twin" for student in report.students):
        text = f"what distillation did for {head.name}; give the same student trained alone (distill --twin) as --twin"
        yield Sentence("unknown", f"Unknown: {text}.")
    anns = [party.label for party in parties(report) if party.kind in ("teacher", "quantized ANN")]
    if anns and any(d.times for d in head.deployments):
        yield Sentence(
            "unknown", f"Unknown: how long {enumerated(anns, 'or')} takes; no step-time model here is of an ANN."
        )
