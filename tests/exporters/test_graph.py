"""`SpikingGraph` refuses what is not a network, by name, and knows its shapes and signals."""

from __future__ import annotations

import numpy as np
import pytest

from exporters.graph import (
    IF,
    LIF,
    AvgPool2d,
    Conv2d,
    Flatten,
    GraphError,
    Input,
    Linear,
    MaxPool2d,
    Output,
    SpikingGraph,
    chain,
)  # fmt: skip
from exporters.graph.editing import cycle_of

W = np.ones((2, 3))
K = np.ones((4, 1, 3, 3))


def simple(T: int = 4, **nodes) -> SpikingGraph:
    default = {"in": Input((3,)), "fc": Linear(W), "sn": IF(1.0), "out": Output()}
    return chain((default | nodes).items(), T)


def test_shapes_and_signals() -> None:
    graph = chain(
        [("in", Input((1, 9, 8))), ("conv", Conv2d(K, None, (2, 1), (1, 0))), ("sn", IF(1.0)), ("pool", MaxPool2d((2, 2), (2, 2))),
         ("avg", AvgPool2d((2, 3), (1, 1), divisor=6)), ("flat", Flatten()), ("fc", Linear(np.ones((2, 4)))), ("out", Output("membrane"))],
        3,
    )  # fmt: skip
    assert graph.shapes == {
        "in": (1, 9, 8), "conv": (4, 5, 6), "sn": (4, 5, 6), "pool": (4, 2, 3), "avg": (4, 1, 1), "flat": (4,), "fc": (2,), "out": (2,),
    }  # fmt: skip
    assert (
        graph.in_signal("conv") == "analog"
        and graph.in_signal("fc") == "spikes"
        and graph.in_signal("out") == "current"
    )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: simple(T=0), "T is 0"),
        (lambda: simple(T=True), "T is True"),
        (lambda: simple(sn=IF(0.0)), "sn: the threshold is 0.0"),
        (lambda: simple(sn=IF(float("nan"))), "sn: the threshold is nan"),
        (lambda: simple(sn=LIF(1.0, 1.0)), "sn: the leak is 1.0"),
        (lambda: simple(sn=IF(1.0, scale=0)), "sn: the scale is 0"),
        (lambda: simple(fc=Linear(np.full((2, 3), np.inf))), "fc: the weight contains NaN or infinite"),
        (lambda: simple(fc=Linear(np.ones((2, 4)))), "fc: the weight expects 4 inputs, but 3 arrive"),
        (lambda: simple(fc=Linear(W, np.ones(3))), r"fc: the bias must have shape \(2,\)"),
        (lambda: simple(fc=Linear(W.astype("U1"))), "fc: the weight has type"),
        (lambda: simple(fc=Conv2d(K)), r"fc: a convolution needs \(C, H, W\) input"),
        (lambda: simple(**{"in": Input((3, 2))}), "in: the input shape"),
        (lambda: simple(**{"in": Input((1, 2, 2)), "fc": Conv2d(K)}), "its 3×3 window does not fit into its 2×2 input"),
        (lambda: simple(**{"in": Input((1, 5, 5)), "fc": Conv2d(K, groups=3)}), "4 output channels cannot be split into 3 groups"),
        (lambda: simple(**{"in": Input((1, 5, 5)), "fc": Conv2d(K, stride=(0, 1))}), "stride is"),
        (lambda: simple(**{"in": Input((1, 5, 5)), "fc": MaxPool2d((2, 2), (2, 2), (2, 2))}), "more than half the kernel"),
        (lambda: chain([("in", Input((3,))), ("fc", Linear(W)), ("out", Output())], 2), '"rate" read-out needs spikes'),
        (lambda: chain([("in", Input((3,))), ("fc", Linear(W)), ("sn", IF(1)), ("out", Output("membrane"))], 2), '"membrane" read-out needs'),
        (lambda: chain([("in", Input((3,))), ("fc", Linear(W)), ("sn", IF(1))], 2), "0 Output nodes"),
        (lambda: SpikingGraph({"in": Input((3,)), "out": Output()}, (("in", "nowhere"),), 2), "'nowhere', which is not a node"),
        (lambda: SpikingGraph({"in": Input((3,)), "a": Linear(np.eye(3)), "b": Linear(np.eye(3)), "out": Output()}, (("in", "a"), ("a", "b"), ("b", "a"), ("b", "out")), 2), "cycle through a, b within one step; a Delay"),
        (lambda: SpikingGraph({"in": Input((3,)), "a": Linear(np.eye(3)), "b": Linear(W), "s": IF(1), "out": Output()}, (("in", "a"), ("in", "b"), ("a", "s"), ("b", "s"), ("s", "out")), 2), "different shapes"),
        (lambda: SpikingGraph({"in": Input((3,)), "a": Linear(np.eye(3)), "s": IF(1), "out": Output()}, (("in", "a"), ("in", "s"), ("a", "s"), ("s", "out")), 2), "different kinds of signal"),
        (lambda: SpikingGraph({"in": Input((3,)), "a": Linear(W), "b": Linear(W), "s": IF(1), "out": Output()}, (("in", "a"), ("in", "b"), ("a", "s"), ("s", "out")), 2), "b: its output goes nowhere"),
        (lambda: chain([("in", Input((3,))), ("fc", Linear(np.eye(3))), ("fc", Linear(W)), ("out", Output("membrane"))], 2), "two nodes of the chain share a name"),
        (lambda: SpikingGraph({"in": Input((3,)), "a": Linear(W), "out": Output("membrane")}, (("a", "in"), ("in", "out")), 2), "a: nothing feeds this node"),
        (lambda: SpikingGraph({"in": Input((3,)), "a": Linear(W), "b": Linear(W), "out": Output("membrane")}, (("in", "a"), ("a", "out"), ("b", "out")), 2), "b: nothing feeds this node; remove it or connect it"),
        (lambda: SpikingGraph({"in": Input((3,)), "a": Linear(W), "out": Output("membrane"), "b": Linear(W[:, :2])}, (("in", "a"), ("a", "out"), ("out", "b")), 2), "out: the Output node may not feed another node"),
        (lambda: SpikingGraph({"in": Input((3,)), "a": Linear(W), "s": IF(1), "b": Linear(W), "t": IF(1), "out": Output()}, (("in", "a"), ("a", "s"), ("in", "b"), ("b", "t"), ("s", "out"), ("t", "out")), 2), "out: a rate is read from exactly one neuron layer, not from 2"),
    ],
)  # fmt: skip
def test_refusals(build, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        build()


def test_encode() -> None:
    graph = simple(**{"in": Input((3,), scale=255)})
    np.testing.assert_array_equal(graph.encode(np.array([[0, 0.5, 1]])), [[0, 128, 255]])
    for bad, message in [
        (np.ones((1, 4)), "the samples have shape"),
        (np.full((1, 3), np.nan), "NaN"),
        (np.full((1, 3), 2.0), "range from 2 to 2"),
    ]:
        with pytest.raises(GraphError, match=message):
            graph.encode(bad)
    pixels = np.arange(256).repeat(3).reshape(256, 3)
    np.testing.assert_array_equal(graph.encode(pixels / 255), pixels)  # every 8-bit pixel survives


def test_is_integer() -> None:
    whole = {"in": Input((3,), scale=255), "fc": Linear(W.astype(np.int32), None), "sn": IF(3)}
    assert simple(**whole).is_integer
    for change in ({"in": Input((3,))}, {"fc": Linear(W)}, {"sn": IF(3.5)}):
        assert not simple(**(whole | change)).is_integer


def test_graph_cannot_be_changed() -> None:
    graph = simple()
    with pytest.raises(TypeError):
        graph.nodes["x"] = IF(1.0)  # type: ignore[index]


def test_a_cycle_is_named_without_what_lies_around_it() -> None:
    edges = [("in", "a"), ("a", "b"), ("b", "c"), ("c", "b"), ("c", "d"), ("d", "e"), ("e", "out")]
    assert cycle_of(["in", "a", "e", "c", "d", "b", "out"], edges) == ["c", "b"]
    assert cycle_of(["in", "a", "out"], [("in", "a"), ("a", "out")]) == []
    assert cycle_of(["a"], [("a", "a")]) == ["a"]
    # d lies between two cycles and is in none
    two = [("a", "a"), ("a", "d"), ("d", "b"), ("b", "c"), ("c", "b")]
    assert cycle_of(["d", "b", "c", "a"], two) == ["a"]
