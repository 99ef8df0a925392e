"""The nodes of a `SpikingGraph` are data; this is what each holds.

What they compute is told in `exporters.graph`, which shape and signal leaves them in `exporters.graph.inference`.
Arrays are numpy in PyTorch's layout: kernels OIHW, shapes CHW.

`Synapse`, `Neuron` and `Pool` are the bases of nodes of a kind. They are open, so exhaustive matches are over `Node` or
over the unions `AnySynapse`, `AnyNeuron` and `AnyPool`, and end in `assert_never`: a node added to its union is a list
of type errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

Array = NDArray[Any]
Shape = tuple[int, ...]
Pair = tuple[int, int]
Reset = Literal["hard", "soft"]
Encoding = Literal["direct", "frames", "spikes"]
Score = Literal["last", "mean"]
SignalKind = Literal["analog", "spikes", "current"]
"""An edge carries analog input, spikes (also pooled or summed ones), or synaptic current."""


@dataclass(frozen=True, eq=False)
class Input:
    """The input is where samples enter, of shape (C, H, W) or (F,) without batch or time.

    A sample is one frame of graded values that is read at every step ("direct"), T frames of graded values ("frames"), or T
    frames of 0 and 1 ("spikes").

    `scale` is None for real-valued input. Otherwise the network consumes integers
    `rint(x * scale)` in 0…scale (255: 8-bit pixels), see `SpikingGraph.encode`.
    """

    shape: Shape
    encoding: Encoding = "direct"
    scale: int | None = None

    @property
    def over_time(self) -> bool:
        """Whether a sample is T frames, and not one."""
        return self.encoding != "direct"

    @property
    def is_graded(self) -> bool:
        """Whether values other than 0 and 1 come in."""
        return self.encoding != "spikes"


@dataclass(frozen=True, eq=False)
class Synapse:
    """A synapse layer has weights (outputs, inputs of each, …) and perhaps a bias, which is added at every step."""

    weight: Array
    bias: Array | None = None


@dataclass(frozen=True, eq=False)
class Conv2d(Synapse):
    """A convolution is the cross-correlation of `torch.nn.Conv2d`: weight (Cout, Cin/groups, kH, kW), bias (Cout,).

    Its bias may also be a whole map, of the output's shape (Cout, H, W). What adds a constant to a padded input (a
    BatchNorm before the convolution, the mean of normalized images) adds less at the border than inside, and folds into
    such a map exactly.
    """

    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1


@dataclass(frozen=True, eq=False)
class Linear(Synapse):
    """Dense synapses are those of `torch.nn.Linear`: weight (out, in), bias (out,)."""


@dataclass(frozen=True, eq=False)
class Pool:
    """A pool is a window that slides over (C, H, W), channel by channel."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)


@dataclass(frozen=True, eq=False)
class MaxPool2d(Pool):
    """A max-pool gives the maximum of each window; on spikes this is the logical OR. Padding never wins."""


@dataclass(frozen=True, eq=False)
class AvgPool2d(Pool):
    """An average pool sums each window and divides by `divisor` (kH·kW for the usual average; 1 in an integer graph)."""

    divisor: int = 1


@dataclass(frozen=True, eq=False)
class Flatten:
    """Flattening takes (C, H, W) to (C·H·W,), in C order."""


@dataclass(frozen=True, eq=False)
class Delay:
    """A delay gives out at step t what arrived at step t − steps, and 0 before anything could; of spikes or of frames.

    `steps` are whole numbers of the signal's shape, one for each element. Where all are at least 1, the delay may close a
    loop: that is how a network is recurrent.
    """

    steps: Array


class Neuron:
    """A neuron layer integrates its current and fires at its threshold.

    Attributes:
        threshold: the membrane at which a neuron fires.
        reset: "hard" sets the membrane to 0 after a spike, "soft" subtracts the threshold.
        scale: integer units of membrane per real unit (1.0 in a float graph).
        leak: the share of its membrane that a neuron keeps from step to step.
        current_leak: the share of its synaptic current that it keeps; 0 for all but current-based neurons.
        start: the membrane before the first step of every sample, above −threshold and below it. It leaks at the first step
            like any other; a spike resets to 0 all the same.
    """

    threshold: float
    reset: Reset
    scale: float
    leak: float
    current_leak: float
    start: float


@dataclass(frozen=True, eq=False)
class IF(Neuron):
    """Integrate-and-fire neurons keep all of their membrane and none of their current."""

    threshold: float
    reset: Reset = "hard"
    scale: float = 1.0
    start: float = 0.0
    leak = 1.0
    current_leak = 0.0


@dataclass(frozen=True, eq=False)
class LIF(Neuron):
    """Leaky integrate-and-fire neurons are v ← leak·v + x with 0 ≤ leak < 1, else as `IF`.

    `current_leak` a > 0 is a current-based neuron (CUBA): u ← a·u + Σ w·x, then v ← leak·v + u + b, where u = 0
    before the first step, a spike resets v and leaves u, and `leak` may be 1. At 0 the current does not persist.

    An integer graph leaks as Loihi does: leak = (4096 − decay)/4096, the product truncated toward zero in units
    of 1/64; u is a register of 24 bits that wraps once (`PyLifModelBitAcc` of lava-nc 0.10).
    """

    threshold: float
    leak: float
    reset: Reset = "hard"
    scale: float = 1.0
    current_leak: float = 0.0
    start: float = 0.0


@dataclass(frozen=True, eq=False)
class Output:
    """The read-out is where a network ends: in spikes ("rate"), or in a membrane that never fires.

    Attributes:
        readout: "rate" or "membrane".
        scale: integer units per real unit of a membrane, else 1.
        leak: the share of itself that a membrane keeps from step to step, v ← leak·v + x; in an integer graph as `LIF`'s.
        score: what of a membrane is the score: "last", its value after the last step, divided by T, or "mean", its mean over
            all steps.
    """

    readout: Literal["rate", "membrane"] = "rate"
    scale: float = 1.0
    leak: float = 1.0
    score: Score = "last"

    @property
    def sums(self) -> bool:
        """Whether the score of a membrane is the plain mean of the currents that reached it."""
        return self.leak == 1 and self.score == "last"


AnySynapse = Conv2d | Linear
AnyNeuron = IF | LIF
AnyPool = MaxPool2d | AvgPool2d
Node = Input | AnySynapse | AnyPool | Flatten | Delay | AnyNeuron | Output
