"""The verdict's rules against the numbers themselves: no sentence claims more than they have, and each rule goes both ways."""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace

import profilers_example as example
import pytest

from profilers import report
from profilers.counting.flops import ModuleCounts
from profilers.counting.statistics import Statistic, share_interval
from profilers.energy.evaluation import BreakdownLine, EnergyEstimate
from profilers.energy.models import Range
from profilers.energy.movement import BitBudget
from profilers.energy.operations import Counts
from profilers.energy.timing import EnergyDelay, TimeEstimate
from profilers.report import comparing, verdict
from profilers.report.data import ModelEnergies, Student, StudentEnergy, Teacher
from profilers.report.few_bit import FewBitAnn, FewBitEnergy
from profilers.report.numbers import SPACE
from profilers.report.parties import Party

NOTHING = Counts("ann", {})


def exactly(low: float, high: float, *counted: str, model: str = "m", times: int = 1) -> EnergyEstimate:
    """An estimate whose terms share its energy evenly; each counts `times` operations."""
    names = counted or ("synops",)
    part = Range(low / len(names), (low + high) / 2 / len(names), high / len(names))
    lines = tuple(BreakdownLine(name, name, Range.exactly(times), part) for name in names)
    return EnergyEstimate(model, "snn", low, (low + high) / 2, high, lines)


@pytest.fixture(scope="module")
def run() -> report.NetworkRun:
    found = example.run(example.network(integer=True), 0.9)
    return replace(found, synops=Statistic(1000.0, 0.0, 1000.0, 1000.0, 100), samples=100)


def made(
    run: report.NetworkRun,
    student: tuple[float, float],
    ann: tuple[float, float] | None = None,
    skipping: tuple[float, float] | None = None,
    *,
    accuracies: tuple[float, float] = (0.9, 0.9),
    teacher: tuple[float, float] | None = None,
    counted: tuple[str, ...] = ("synops",),
    models: int = 1,
    samples: int = 100,
) -> report.Report:
    """A student in one or several alike models, and perhaps an ANN of few bits and a teacher beside it."""
    head = Student("net", replace(run, accuracy=accuracies[0], samples=samples))
    few = () if ann is None else (
        FewBitAnn("few", accuracies[1], 8, 3, ModuleCounts(1, 1, 20_000, 20_000), 8, 1.0, BitBudget(1, 1), NOTHING, NOTHING, samples),
    )  # fmt: skip
    price = StudentEnergy("net", "integer", exactly(*student, *counted), None, None, None, 1.0, {})
    few_price = (
        () if ann is None else (FewBitEnergy("few", exactly(*ann), exactly(*skipping) if skipping else None, None),)
    )
    energies = tuple(
        ModelEnergies(
            f"m{i}", "", f"M{i}", "", "", "", "", exactly(*teacher) if teacher else None, None, "", (price,), few_price, "", {}, (), (),
        )
        for i in range(models)
    )  # fmt: skip
    whole = report.build("t", "", [head], models={}, few_bit=few, teacher=_teacher(teacher))
    whole = replace(whole, energies=energies)
    return replace(whole, verdict=verdict.judged(whole))


def _teacher(given: tuple[float, float] | None) -> Teacher | None:
    return None if given is None else Teacher("big", 0.95, ModuleCounts(1, 1, 9, 9), samples=100)


def said(one: report.Report, topic: str, word: str = "") -> str:
    return " ".join(s.text for s in one.verdict if s.topic == topic and word in s.text).replace(SPACE, " ")


def answer(one: report.Report, question: str) -> str:
    return next(s.short for s in one.verdict if s.question.startswith(question)).replace(SPACE, " ")


# -- the rule of energy ---------------------------------------------------------------------------------------


def test_a_win_is_claimed_only_where_the_ranges_do_not_meet(run: report.NetworkRun) -> None:
    """Random ranges: the claim is the one that the four ends allow, for zeros skipped or not."""
    rng = random.Random(0)
    seen = set()
    for _ in range(80):
        student, ann, skipping = (sorted(rng.randint(1, 12) for _ in range(2)) for _ in range(3))
        skipping = [min(skipping[0], ann[0]), min(skipping[1], ann[1])]
        one = made(run, (student[0], student[1]), (ann[0], ann[1]), (skipping[0], skipping[1]))
        lowest, highest = min(ann[0], skipping[0]), max(ann[1], skipping[1])
        less, more = student[1] < lowest, student[0] > highest
        assert answer(one, "Is it better").endswith(f"energy: less under {less:d}, more under {more:d} of 1 model")
        text = said(one, "quantized ANN")
        assert ("net takes less energy than few (quantized ANN)" in text) == less
        assert ("net takes more energy than few (quantized ANN)" in text) == more
        assert ("under none of 1 model a difference in energy" in text) == (not less and not more)
        (rival,) = (x.text for x in one.verdict if x.topic == "energy" and "the least is taken" not in x.text)
        conditional, _, when_skipped = rival.partition("; if it skips them, ")
        assert ("takes less" in conditional) == (student[1] < ann[0])
        if when_skipped:
            assert ("takes less" in when_skipped) == (student[1] < skipping[0])
        seen.add((less, more))
    assert seen == {(True, False), (False, True), (False, False)}


def test_ranges_that_touch_are_no_difference(run: report.NetworkRun) -> None:
    assert "under none of 1 model" in said(made(run, (1, 2), (2, 3)), "quantized ANN")
    assert "takes less energy" in said(made(run, (1, 2), (2.001, 3)), "quantized ANN")


def test_what_the_samples_leave_open_is_no_win(run: report.NetworkRun) -> None:
    """1 J for the mean of 1,000 SynOps, whose interval reaches to 1,100."""
    unsure = replace(run, synops=Statistic(1000.0, 300.0, 900.0, 1100.0, 100))
    for rival, claimed in ((1.05, False), (1.11, True)):
        assert ("takes less energy" in said(made(unsure, (1, 1), (rival, rival)), "quantized ANN")) == claimed
    for rival, claimed in ((0.95, False), (0.89, True)):
        assert ("takes more energy" in said(made(unsure, (1, 1), (rival, rival)), "quantized ANN")) == claimed
    still = made(unsure, (1, 1), (1.05, 1.05), counted=("neuron_updates",))  # spikes cost nothing here
    assert "takes less energy" in said(still, "quantized ANN")


def test_models_are_counted_and_named(run: report.NetworkRun) -> None:
    one = made(run, (1, 2), (3, 4), models=3)
    assert "under all 3 models (M0; M1; M2)" in said(one, "quantized ANN")
    dear = replace(one.energies[1], few_bit=(replace(one.energies[1].few_bit[0], dense=exactly(0.1, 0.2)),))
    open_ = replace(one.energies[2], few_bit=(replace(one.energies[2].few_bit[0], dense=exactly(1, 5)),))
    mixed = replace(one, energies=(one.energies[0], dear, open_))
    text = said(replace(mixed, verdict=verdict.judged(mixed)), "energy", "net takes")
    assert "net takes less energy than few (quantized ANN) under 1 of 3 models (M0), more under 1 (M1)" in text
    assert "; under 1 (M2) no difference is established" in text
    assert not re.search(r"\d+ ?%|times|×", text)  # no ratio, least of all across models


def test_titles_of_one_source_stand_together() -> None:
    titles = ("FP32 at 45 nm (H 2014)", "INT8 at 45 nm (H 2014)", "CPU (K)", "A (K)", "Mine", "B at 1 nm (J)", "C (J)")
    assert comparing.listed(titles) == "FP32, INT8 at 45 nm by H 2014; CPU, A by K; Mine; B at 1 nm, C by J"


def test_what_is_counted_differently_is_not_compared(run: report.NetworkRun) -> None:
    """A student as placed is not held against one that was not, nor a sum that lacks a term against one of an ANN."""
    one = made(run, (1, 2), (5, 6))
    energy = one.energies[0].students[0]
    assert energy.estimate is not None
    lacking = replace(energy, estimate=replace(energy.estimate, left_out=("static power",)))
    changed = replace(one, energies=(replace(one.energies[0], students=(lacking,)),))
    assert "no model here prices both net and few" in said(
        replace(changed, verdict=verdict.judged(changed)), "quantized ANN"
    )
    other = replace(energy, student="other", placed_on="Loihi 1", estimate=exactly(8, 9))
    pair = replace(one, students=(one.students[0], replace(one.students[0], name="other")))
    for second, expected in (
        (other, "no model counts net and other"),
        (replace(other, placed_on=""), "net takes less energy than other"),
    ):
        both = replace(pair, energies=(replace(one.energies[0], students=(energy, second)),))
        assert expected in said(replace(both, verdict=verdict.judged(both)), "energy")


def test_a_student_may_be_called_as_its_teacher_is(run: report.NetworkRun) -> None:
    one = made(run, (1, 2), teacher=(3, 4))
    assert one.teacher is not None
    alike = replace(one, teacher=replace(one.teacher, name="net"))
    text = said(replace(alike, verdict=verdict.judged(alike)), "energy", "net takes")
    assert text.startswith("Energy: net takes less energy than net (teacher) under the 1 model (M0)")


def test_who_takes_least(run: report.NetworkRun) -> None:
    def least(student: tuple[float, float], ann: tuple[float, float], teacher: tuple[float, float]) -> str:
        return said(made(run, student, ann, teacher=teacher), "energy", "the least is taken").split("taken by ")[1]

    assert least((1, 2), (3, 4), (5, 6)).startswith("net (student) under 1 (M0).")
    assert least((3, 4), (1, 2), (5, 6)).startswith("few (quantized ANN) under 1 (M0).")
    assert least((1, 3), (2, 4), (5, 6)).startswith("few (quantized ANN) or net (student) under 1")
    assert least((1, 9), (2, 8), (3, 7)).startswith("big (teacher), few (quantized ANN) or net (student) under 1")


# -- accuracy, memory, time ---------------------------------------------------------------------------------------


def test_accuracy_is_judged_by_the_intervals(run: report.NetworkRun) -> None:
    rng = random.Random(1)
    seen = set()
    for _ in range(60):
        first, second, n = round(rng.random(), 2), round(rng.random(), 2), rng.choice((10, 100, 1000))
        one = made(run, (1, 2), (3, 4), accuracies=(first, second), samples=n)
        (low, high), (their_low, their_high) = share_interval(first, n), share_interval(second, n)
        expected = (
            "more accurate"
            if low > their_high
            else "less accurate"
            if high < their_low
            else "no difference established"
        )
        assert expected in answer(one, "Is it better")
        best = said(one, "accuracy")
        assert ("nobody is established" in best) == (expected == "no difference established")
        if expected != "no difference established":
            winner = "net (student)" if first > second else "few (quantized ANN)"
            assert best.startswith(f"Accuracy: {winner} is the most accurate on {n:,} samples")
        seen.add(expected)
    assert len(seen) == 3


def test_who_is_below_two_that_nobody_tells_apart_is_said_in_words() -> None:
    def read(*accuracies: float) -> str:
        kinds = ("student", "twin", "teacher", "quantized ANN")
        all_of = tuple(
            Party(name, kind, accuracy, 100, 1, 8)
            for name, kind, accuracy in zip("abcd", kinds, accuracies, strict=False)
        )
        (sentence,) = verdict._accuracy(all_of)
        return sentence.text.replace(SPACE, " ")

    assert read(0.9, 0.89, 0.3).endswith("overlap; c (teacher) 30.0 % (21.9–39.6 %) is below.")
    assert read(0.9, 0.89, 0.3, 0.2).endswith(
        "c (teacher) 30.0 % (21.9–39.6 %) and d (quantized ANN) 20.0 % (13.3–28.9 %) are below."
    )


def test_an_accuracy_on_nobody_knows_how_many_samples_is_not_compared(run: report.NetworkRun) -> None:
    one = made(run, (1, 2), (3, 4), accuracies=(0.5, 0.99), samples=1000)
    bare = replace(one, few_bit=(replace(one.few_bit[0], samples=None),))
    bare = replace(bare, verdict=verdict.judged(bare))
    assert "most accurate" not in said(bare, "accuracy") and "is not compared" in said(bare, "accuracy")
    assert "accuracy not comparable" in answer(bare, "Is it better")


def test_whether_distillation_helped(run: report.NetworkRun) -> None:
    for accuracy, expected in (
        (0.5, "is more accurate with it"),
        (0.99, "is less accurate with it"),
        (0.89, "not established"),
    ):
        pair = [
            Student("net", replace(run, accuracy=0.9)),
            Student("alone", replace(run, accuracy=accuracy), role="twin"),
        ]
        assert expected in said(report.build("t", "", pair, models={}), "accuracy", "Distillation")


def test_memory_is_compared_as_it_is(run: report.NetworkRun) -> None:
    small = replace(run, parameters=10, weight_bits=8000, state_bits=800)
    one = made(small, (1, 2), (3, 4), teacher=(5, 6))
    text = said(one, "memory")
    assert text.startswith(
        "Memory: big (teacher) has the fewest parameters, 9 (others: few (quantized ANN) 20,000, net (student) 10)"
    )
    assert "few (quantized ANN) has the least memory for weights, 1.00 B (others: net (student) 1.00 kB)" in text
    assert "membranes come on top, net (student) 100 B" in text
    alike = report.build("t", "", [Student("a", small), Student("b", small)], models={})
    assert "a (student) and b (student) have 10 parameters each" in said(alike, "memory")


def timed(low: float, high: float, *, at_least: bool = False, total: float = 0.0) -> report.Deployment:
    span, energy = Range(low, low, high), Range(total, total, total)
    products = (EnergyDelay("m0", "M0", energy, energy, energy, static=True),) if total else ()
    time = TimeEstimate(
        "s", "Steps (X)", "estimated", "", at_least, 9, span, span, span, 1, "conv1", 0.5, "synops", products, {}, ()
    )
    return report.Deployment("loihi1", "Loihi 1", 5, 1, 10, (), 9, None, NOTHING, (time,))


def test_time(run: report.NetworkRun) -> None:
    def pair(first: report.Deployment, second: report.Deployment) -> report.Report:
        students = [Student("a", run, deployments=(first,)), Student("b", run, deployments=(second,))]
        return report.build("t", "", students, models={})

    one = pair(timed(1e-3, 2e-3), timed(3e-3, 4e-3))
    assert answer(one, "How long") == "1.00–2.00 ms on Loihi 1"
    assert "1.00–2.00 ms (Steps by X). The slowest core is of conv1." in said(one, "time")
    assert "a takes less time than b under the 1 step-time model (Steps by X)" in said(one, "time")
    assert "a takes more time than b" in said(pair(timed(5e-3, 6e-3), timed(3e-3, 4e-3)), "time")
    assert "under none of 1 step-time model a difference" in said(pair(timed(1e-3, 3e-3), timed(3e-3, 4e-3)), "time")
    bound = pair(timed(1e-3, 1e-3, at_least=True), timed(3e-3, 3e-3, at_least=True))
    assert answer(bound, "How long") == "≥ 1.00 ms on Loihi 1" and "under none of" in said(bound, "time")


# -- what the answer hangs on --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ann", "expected"), [((4.5, 5), "under the 1 model"), ((3, 3.5), "under none of 1 model"), ((1.5, 5), "no saving is established")]
)  # fmt: skip
def test_denser_input(run: report.NetworkRun, ann: tuple[float, float], expected: str) -> None:
    """1 to 2 J, all of it by spikes, is 2 to 4 J with twice as many."""
    assert expected in answer(made(run, (1, 2), ann), "Does the saving")


def test_twice_the_spikes_by_hand() -> None:
    lines = exactly(4, 8, "synops", "neuron_updates", "active_updates", "inactive_updates", times=10).breakdown
    assert comparing.total(comparing.with_spikes(lines, 1)) == Range(4, 6, 8)
    # SynOps 1 → 2, updates 1, active ones 1 → 2, and all that rested is awake: 1 → 0
    assert comparing.total(comparing.with_spikes(lines, 2)).low == pytest.approx(2 + 1 + 2 + 0)
    assert math.isclose(comparing.total(comparing.with_spikes(lines, 0)).low, 0 + 1 + 0 + 2)


def test_the_first_layer_turns_an_outcome_around_or_not(run: report.NetworkRun) -> None:
    """MACs once or at four steps: 1 or 4 J at a constant without bounds, and 1 J of the rest."""
    lines = (
        BreakdownLine("MACs", "macs", Range(1, 4, 4), Range(1, 4, 4)),
        BreakdownLine("SynOps", "synops", Range.exactly(1), Range.exactly(1)),
    )
    estimate = EnergyEstimate("m", "snn", 2, 5, 5, lines)
    assert [comparing.total(x) for x in comparing.first_layer(lines) or ()] == [Range.exactly(2), Range.exactly(5)]
    assert comparing.first_layer(lines[1:]) is None
    for ann, expected in ((3, "hangs on how often"), (6, "changes no outcome"), (1, "changes no outcome")):
        one = made(run, (1, 2), (ann, ann))
        student = replace(one.energies[0].students[0], estimate=estimate)
        changed = replace(one, energies=(replace(one.energies[0], students=(student,)),))
        text = said(replace(changed, verdict=verdict.judged(changed)), "depends", "First layer")
        assert expected in text, text
        if ann == 3:
            assert "less if once, more if at every step, under the 1 model (M0)" in text


def test_data_movement_turns_an_outcome_around_or_not(run: report.NetworkRun) -> None:
    def told(moving: tuple[float, float]) -> str:
        one = made(run, (1, 2), (3, 4), models=2)
        estimate = exactly(*moving, "synops", "weight_bits")
        second = replace(one.energies[1], students=(replace(one.energies[1].students[0], estimate=estimate),))
        both = replace(one, energies=(one.energies[0], second))
        return said(replace(both, verdict=verdict.judged(both)), "depends", "Data movement")

    assert "the answer hangs on it. Where it is priced (M1)" in told(
        (5, 6)
    ) and "more under 1 of 1 model; where" in told((5, 6))
    assert "the answer is the same without it" in told((1, 2))
    assert "no model here prices it" in said(made(run, (1, 2), (3, 4)), "depends", "Data movement")


def test_static_power_decides_or_may(run: report.NetworkRun) -> None:
    for total, expected in ((9.0, "Static power decides"), (1.5, "Static power may decide")):
        one = made(run, (1, 2), (3, 4))
        head = replace(one.students[0], deployments=(timed(1e-3, 2e-3, total=total),))
        placed = replace(one, students=(head,), energies=(replace(one.energies[0], target="loihi1"),))
        text = said(replace(placed, verdict=verdict.judged(placed)), "depends", "Static power")
        assert text.startswith(f"{expected}: under M0 an inference takes 1.00–2.00 J without it")


# -- what nobody knows, and how it reads -----------------------------------------------------------------------------------


def test_who_is_missing_is_named_with_the_option_that_brings_it(run: report.NetworkRun) -> None:
    bare = report.build("t", "", [Student("net", replace(run, accuracy=None, samples=5))], models={})
    text = " ".join(s.text for s in bare.verdict)
    for option in (
        "--teacher",
        "--twin",
        "--qann",
        "--quantize-activations 3",
        "without labels",
        "5 samples are too few",
    ):
        assert option in text.replace(SPACE, " "), option
    assert [s.short for s in bare.verdict if s.question] == ["unknown"] * 3
    full = made(run, (1, 2), (3, 4), teacher=(5, 6))
    text = " ".join(s.text for s in full.verdict)
    assert "--teacher" not in text and "--qann" not in text and "--twin" in text
    alone = report.build("t", "", [], teacher=_teacher((1, 2)), models={})
    assert [s.topic for s in alone.verdict] == ["accuracy", "memory", "unknown"]
    assert "give this ANN as --teacher" in alone.verdict[-1].text


GOLDEN = """
net does not fit Loihi 1: conv1: a weight of 300; Loihi 1 holds ±127. What to change: quantize with fewer bits.
How long does it take? Unknown. How long net takes is unknown: it has no placement on a chip.
Is it better than a trained quantized ANN? Less accurate; energy: less under 2, more under 0 of 2 models. Accuracy: net \
is less accurate beyond 95 % intervals (net (student) 80.0 % (71.1–86.7 %), few (quantized ANN) 97.0 % (91.5–99.0 %)). Energy: \
whether the ANN skips zeros or not, net takes less energy than few (quantized ANN) under all 2 models (M0; M1). Data movement: no \
model here prices that of both.
Does the saving survive denser input? At twice the spikes: under none of 2 models. Denser input: a saving against few \
(quantized ANN) is no longer established with twice the spikes under all 2 models (M0; M1). The ANN multiplies every zero here. How the spikes grow with the input was not measured.
Accuracy: few (quantized ANN) is the most accurate on 100 samples, 97.0 % (91.5–99.0 %); below it, beyond 95 % intervals, is net \
(student) 80.0 % (71.1–86.7 %).
Energy: of the 2 models that price more than one network, the least is taken by net (student) under 2 (M0; M1).
Energy: net takes less energy than few (quantized ANN) under all 2 models (M0; M1); with zeros skipped the ANN was not counted.
Memory: net (student) has the fewest parameters, 13,584 (others: few (quantized ANN) 20,000); few (quantized ANN) has the least \
memory for weights, 1.00 B (others: net (student) 11.9 kB); membranes come on top, net (student) 4.83 kB.
Data movement: no model here prices it, so what hangs on it is not told.
Unknown: how net does beside its teacher; give the ANN’s checkpoint as --teacher.
Unknown: what distillation did for net; give the same student trained alone (distill --twin) as --twin.
""".strip()


def test_how_it_reads(run: report.NetworkRun) -> None:
    one = made(run, (1, 2), (3, 4), accuracies=(0.8, 0.97), models=2)
    problem = report.FitProblem("conv1", "a weight of 300; Loihi 1 holds ±127", "quantize with fewer bits")
    one = replace(one, fits=(report.ChipFit("net", "loihi1", "Loihi 1", (problem,)),))
    assert "\n".join(sentence.paragraph for sentence in verdict.judged(one)) == GOLDEN
    brief = [sentence.brief for sentence in verdict.judged(one) if sentence.brief]
    assert 3 <= len(brief) < len(verdict.judged(one)) and all(text in GOLDEN.replace("\n", " ") for text in brief)
    assert sum(text.partition("?")[1] == "?" for text in brief) == 3
