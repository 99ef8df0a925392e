"""The emulator runs a `SpikingGraph`, float or integer, batched in torch, layer by layer.

On an integer graph it computes what Lava's fixed-point models compute (`PyConvModelFixed`,
`PyDenseModelBitAcc`, `PyLifModelBitAcc` of lava-nc 0.10), spike for spike, registers included: the
synaptic current wraps at 24 bits with 6 fractional ones (and decays there, where the neurons keep it
from step to step), the membrane saturates at 23 bits.

Exactness does not rest on luck. Sums of integers are exact in float32 while no partial sum can pass
2²⁴, which is decided from the weights beforehand (`sum_bound`); where it could, float64 is used. On CPU, pixels
and spikes travel as bytes and synapse layers multiply bytes (`byte_products`), where the processor is found to do
that exactly. Kernels that are not plain sums of products (Winograd, TF32, bfloat16 shortcuts) are switched off
while it runs.
A float graph made by `exporters.passes.exact.make_exact` is exact in the same sense.
"""

from hardware.emulator.membranes import MEMBRANE_MAX
from hardware.emulator.observers import Observer, Recorder
from hardware.emulator.running import Emulation, EmulatorRun, exact_arithmetic, prepare, run

__all__ = ["MEMBRANE_MAX", "Emulation", "EmulatorRun", "Observer", "Recorder", "exact_arithmetic", "prepare", "run"]
