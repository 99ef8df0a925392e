"""NIR files (Pedersen et al. 2024, Nat. Commun. 15:8122): write any graph, read other frameworks' networks.

NIR's neurons live in continuous time. Discretized by forward Euler with time step dt they are exactly the
neurons of a `SpikingGraph`:

* IF, v̇ = R·I, becomes v ← v + x with R = 1/dt;
* LIF, τ·v̇ = (v_leak − v) + R·I, becomes v ← leak·v + x with τ = dt/(1 − leak), R = τ/dt, v_leak = 0;
* CubaLIF, in addition τ_syn·İ = w_in·S − I, becomes u ← current_leak·u + x with τ_syn = dt/(1 − current_leak),
  w_in = τ_syn/dt, and v takes in the u of the same step.

What NIR has no word for is in the metadata of the graph (T, dt, encoding, read-out, quantization) and of
its nodes (reset, leak, scale), as plain values under a `kdsnn_deploy_` name. A max-pool of spikes is written
as a convolution with ones and IF neurons with threshold 0.5 (any spike fires and resets), a residual
sum as two edges. A delay of one step that closes a loop is a connection that goes back, any other a Delay. `docs/nir.md` has all of it, and what `read` makes of foreign files.
"""

from exporters.nir.check import NirError
from exporters.nir.reading import from_nir, read
from exporters.nir.settings import CodingError
from exporters.nir.writing import DT, losses, write

__all__ = ["DT", "CodingError", "NirError", "from_nir", "losses", "read", "write"]
