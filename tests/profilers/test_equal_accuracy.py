"""Comparison at equal accuracy: the rule by hand, in a report, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import profilers_example as made
import pytest

from profilers import report
from profilers.counting.flops import ModuleCounts
from profilers.counting.sizes import LayerShape
from profilers.energy.models import Range, built_in
from profilers.energy.movement import AnnLayer, BitBudget, ann_movement, with_movement
from profilers.energy.operations import dense_ann
from profilers.report import equal_accuracy, few_bit_tables


def point(accuracy: float, nominal: float) -> equal_accuracy.Point:
    return accuracy, Range(nominal / 2, nominal, nominal * 3)


def test_a_front_drops_what_another_beats() -> None:
    kept = [point(0.90, 1), point(0.95, 2), point(0.97, 5)]
    beaten = [point(0.94, 2.5), point(0.90, 1.5), point(0.95, 2), point(0.80, 1)]
    assert equal_accuracy.front([*beaten, *kept]) == kept
    assert equal_accuracy.front([point(0.5, 2)]) == [point(0.5, 2)]


def test_energy_is_linear_between_neighbors_at_the_highest_accuracy_that_both_reach() -> None:
    students, anns = [point(0.90, 1), point(0.96, 4)], [point(0.92, 2), point(0.94, 3)]
    assert equal_accuracy.shared(students, anns) == 0.94
    assert equal_accuracy.at(anns, 0.94) == Range(1.5, 3, 9)
    found = equal_accuracy.at(students, 0.94)
    assert (found.low, found.nominal, found.high) == pytest.approx((1.5, 3, 9))
    assert equal_accuracy.at(students, 0.90) == Range(0.5, 1, 3)
    # one ANN alone, within the students' range; outside it there is nothing to say
    assert equal_accuracy.shared(students, [point(0.91, 1)]) == 0.91
    assert equal_accuracy.shared(students, [point(0.97, 1)]) is None
    assert equal_accuracy.shared([point(0.97, 1), point(0.98, 2)], [point(0.5, 1), point(0.96, 2)]) is None


def ann(name: str, accuracy: float, outputs: int) -> report.FewBitAnn:
    shape = LayerShape(False, 64, outputs, 64 * outputs, 0, 64 * outputs, 0)
    counts = with_movement(dense_ann([shape]), ann_movement([AnnLayer(shape, 64.0 * outputs, 8, 3, 3)]))
    sizes = ModuleCounts(64 * outputs, 64 * outputs, 64 * outputs, 64 * outputs)
    return report.FewBitAnn(name, accuracy, 8, 3, sizes, 512 * outputs, 64.0 * outputs, BitBudget(1, 1), counts, counts)


def test_a_report_compares_students_of_several_sizes_with_an_ann() -> None:
    model = built_in()["yan2026"]
    best = report.Student("best", made.run(made.network(), 0.97), made.run(made.network(integer=True), 0.96))
    # the same network, counted on half of its spikes' price: cheaper and worse
    cheap = replace(best, name="cheap", quantized_run=made.run(made.network(3, integer=True), 0.90))
    twin = replace(best, name="twin", role="twin")
    built = report.build("title", "", [best, cheap, twin], models={model.name: model}, few_bit=[ann("q", 0.93, 10)])
    energies = {s.student: s.estimate.nominal for s in built.energies[0].students}
    assert built.equal_accuracy is not None
    if energies["cheap"] < energies["best"]:
        (row,) = built.equal_accuracy.rows
        assert row.accuracy == 0.93
        assert row.students.nominal == pytest.approx((energies["cheap"] + energies["best"]) / 2)
        assert row.anns.nominal == pytest.approx(640 * (3 * 0.05448 + 8 * 0.0382 + 3 * 0.25) * 1e-12)
    else:  # cheap is beaten in both: one student is left, and it is more accurate than the ANN
        assert built.equal_accuracy.rows == ()
    again = type(built).from_json(built.to_json())
    assert again == built
    captions = [table.name for table in few_bit_tables.few_bit(built)]
    assert captions[:2] == ["few-bit", "few-bit-energy"] and ("equal-accuracy" in captions) == bool(
        built.equal_accuracy.rows
    )


def test_ranges_that_do_not_overlap_are_refused_in_words() -> None:
    model = built_in()["yan2026"]
    student = report.Student("s", made.run(made.network(), 0.97), made.run(made.network(integer=True), 0.96))
    built = report.build(
        "t", "", [student], models={model.name: model}, few_bit=[ann("a", 0.98, 10), ann("b", 0.99, 20)]
    )
    assert built.equal_accuracy is not None and built.equal_accuracy.rows == ()
    said = built.equal_accuracy.refusal.replace("\u00a0", " ")
    assert "students have 96.00 %, the quantized ANNs have 98.00 % to 99.00 %" in said and "do not overlap" in said
    unlabeled = replace(student, quantized_run=made.run(made.network(integer=True), None))
    assert report.build("t", "", [unlabeled], models={}, few_bit=[ann("a", 0.98, 10)]).equal_accuracy is None
    assert report.build("t", "", [student], models={}).equal_accuracy is None
