"""An exported ONNX model is right at every time step, and made of standard operators only.

Three forms of a `SpikingGraph` (pass float graphs through `make_exact` first for exact spikes):

* sequence: all T steps in one run; T is fixed and weights appear once.
* loop: the same with T as an input, an int64 scalar; memory does not grow with T.
* step: one time step, for streaming. Every neuron layer's membrane is an input `LAYER/v` (N, *shape) and an
  output `LAYER/v_next`; feed zeros before the first step of a sample. What a delay remembers, its last frames, the oldest
  first, is an input `DELAY/past` (N, D, *shape) and an output `DELAY/past_next`, zeros before the first step too.

Delays and loops are computed in all forms; in a sequence each loop of the graph is one `Scan` over time.

`input` is (N, *shape), at spike input (N, T, *shape) but one frame in `step`, always real-valued
float32. Outputs: `spikes` (N, T, F) and `scores` (N, F), their rate; for a membrane read-out `membrane` (N, T, F)
and `scores`, its last value / T. A `step` model gives `spikes` or `membrane` (N, F) of its step.

An integer graph becomes the integer form: int8 weights, int32 membranes, bit-identical to the emulator and
to Lava (`exporters.onnx.synapse_operators`, `.neuron_functions`). Neurons are local functions of domain `kdsnn.deploy`, so a viewer shows
neurons instead of forty elementwise operators. `docs/onnx.md` shows how to run a model without this program.
"""

from exporters.onnx.ann import write_ann
from exporters.onnx.ann_model import AnnModel, is_spiking, load_ann
from exporters.onnx.build_model import build
from exporters.onnx.check import load
from exporters.onnx.facts import FORMS, Form, OnnxError, membrane_of, spikes_of
from exporters.onnx.operators import DOMAIN, OPSET, OPSETS
from exporters.onnx.runner import OnnxModel, node_count, prepare, run, verify
from exporters.onnx.writing import write

__all__ = [
    "DOMAIN", "FORMS", "OPSET", "OPSETS", "AnnModel", "Form", "OnnxError", "OnnxModel", "build", "is_spiking", "load",
    "load_ann", "membrane_of", "node_count", "prepare", "run", "spikes_of", "verify", "write", "write_ann",
]  # fmt: skip
