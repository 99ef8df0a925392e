"""netx network descriptions (Lava-DL's HDF5 `.net`) are written, validated and read here without Lava.

The file format, as `lava.lib.dl.netx` 0.6 reads it: root group `layer`, children "0", "1", …; every item a dataset.
This project writes layers of type `input`, `flatten`, `conv`, `dense` (with delays) and `dense_rec`, neurons of type `CUBA` with iDecay
4096 and vDecay 0, which is an IF neuron (a LIF has its 12-bit decays there), and vThMant = V − 1, since Lava fires above its
threshold where SpikingJelly fires at it. Everything is in PyTorch's order, except a bias that differs between
positions, which is (W, H, C). A JSON file beside it (`NAME.net.json`) keeps what the format has no room for: T, input
encoding, scales, read-out, timing.
"""

from __future__ import annotations

from exporters.netx.check import NetxError, validate
from exporters.netx.reading import read
from exporters.netx.sidecar import ChainTiming, message_bits, sidecar_path, timing
from exporters.netx.writing import write

__all__ = ["ChainTiming", "NetxError", "message_bits", "read", "sidecar_path", "timing", "validate", "write"]
