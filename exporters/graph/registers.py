"""These are the constants of Loihi's arithmetic, as Lava's fixed-point models compute it (lava-nc 0.10, lava-dl 0.6).

`PyConvModelFixed` and `PyDenseModelBitAcc` add up spikes times weights, `PyLifModelBitAcc` is the neuron: a current u
and a membrane v in registers with six fractional bits, biases and thresholds that are moved up by as many. Whatever
computes, limits, writes or checks these numbers reads them here.
"""

from __future__ import annotations

FRACTION = 64
"""Register units per unit of the integer weights: six fractional bits."""
CURRENT_REGISTER = 2**23
"""Largest current in register units; the register turns around above it and at its negative, once, by twice as much."""
CURRENT_LIMIT = CURRENT_REGISTER // FRACTION - 1
"""Largest |current| per step, in units of the weights, that can never reach the end of its register: 131,071."""
MEMBRANE_REGISTER = 2**23 - 1
"""Largest |membrane| in register units: there it saturates."""
CONVOLUTION_BITS = 24
"""Bits of a convolution's sum of products, which wraps (`signed_clamp`) before it reaches the current."""
DENSE_BITS = 26
"""Bits that are left of a dense layer's 32-bit sum where the neuron moves it up by six."""
BIAS_LIMIT = 2**15 - 1
"""Largest |bias|: Lava keeps the mantissa in 16 bits."""
THRESHOLD_LIMIT = 2**17
"""Largest integer threshold V: the file stores V − 1 in 17 bits."""
MIXED_THRESHOLD_LIMIT = THRESHOLD_LIMIT // 2
"""Largest V behind weights of both signs on the chip, which then holds even weights only: all is doubled, and V is
stored as 2V − 1 in 17 bits. Lava's simulator takes odd weights too."""
SILENT = THRESHOLD_LIMIT + 1
"""A threshold that no membrane can reach, since Lava's saturates below 131,072: neurons that only integrate."""
DECAY_ONE = 4096
"""The decay that leaves nothing, in Loihi's 12 bits: a register r becomes r·(4096 − decay)/4096, truncated toward zero."""
DENSE_WEIGHTS = (-256, 254)
"""Smallest and largest weight of a dense layer that netx and Lava keep as it is, odd numbers included."""
LONGEST_DELAY = 62
"""Most steps by which netx lets the spikes of a dense synapse come late; it cuts longer ones to this."""
MAX_GROUPS = 127
"""Most groups of a convolution: Lava keeps their number in eight signed bits, and more silently give zeros."""
MAX_STEP = 127
"""Largest stride, padding and dilation, which Lava keeps in eight signed bits too."""


def decay_of(leak: float) -> int:
    """A register that keeps the share `leak` of itself from step to step has this 12-bit decay, 0 to 4096."""
    return DECAY_ONE - round(leak * DECAY_ONE)


def leak_of(decay: int) -> float:
    """A register with this 12-bit decay keeps this share of itself, a multiple of 1/4096."""
    return (DECAY_ONE - decay) / DECAY_ONE
