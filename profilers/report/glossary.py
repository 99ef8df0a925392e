"""The glossary says what the words of a report mean, as its section on conventions prints them."""

from __future__ import annotations

GLOSSARY = (
    (
        "SynOps",
        "Every spike × the synapses that it reaches, exact at borders, summed over layers and all T steps, per sample. "
        "“Non-zero weights only” skips synapses whose weight is 0, as NeuroBench’s effective accumulates do.",
    ),
    (
        "Intervals",
        "“95 % CI” is the bootstrap confidence interval of the mean over samples (percentiles); it says how well the "
        "samples pin down the mean, not how samples differ. That of an accuracy is Wilson’s score interval.",
    ),
    (
        "Pools",
        "An average pool is folded into the weights of the next layer, as on hardware: a spike that enters it causes "
        "one operation per folded synapse. A max-pool is a layer of OR neurons, and the spikes that leave it count.",
    ),
    (
        "Roles",
        "The structure of the network decides whether a layer does synaptic operations (fed by spikes) or "
        "multiply-accumulates (fed by the analog input). MACs of the analog input are given for one pass, whose "
        "result a chip may reuse, and for all T steps.",
    ),
    (
        "Rate × MACs",
        "Mean firing rate of a layer’s input × its dense MACs, padding included. It is what many papers report as "
        "SynOps.",
    ),
    (
        "Spikes",
        "All spikes of all neurons over T steps. The KDSNN paper’s “SynOps” column is of this size; it is not "
        "comparable with MACs or FLOPs.",
    ),
    (
        "Drift",
        "Share of neurons and steps at which the quantized run spikes and the float run does not, or the other way "
        "round, on the same samples.",
    ),
    (
        "FLOPs (thop)",
        "What thop.profile returns, the paper’s convention: multiply-accumulates + 4 per BatchNorm element. A "
        "multiply-accumulate is one operation.",
    ),
    (
        "As placed",
        "A model of a chip prices the chain of layers that runs there: OR neurons of max-pools, relays of skip connections "
        "and the updates of the second compartment of a neuron that resets by subtraction count too. A spike is one "
        "message to each core that it feeds and crosses tiles along one axis, then the other; spikes are taken to be "
        "spread evenly over a layer’s neurons. Messages from the host and of the read-out are not counted.",
    ),
    (
        "Static power",
        "Watts per chip × chips of the placement × seconds per image. The seconds are given by the user (or time per step × "
        "T), for images that follow each other without a gap; without them static power is left out, not estimated.",
    ),
    (
        "Data movement",
        "Bits that are read, moved and written under one dataflow, layer by layer and output stationary: every operation reads its "
        "weight, activations of an ANN go to each of their multiply-accumulates, zeros too, a spike goes to each synapse, "
        "membranes are read and written back once per step.",
    ),
    (
        "Bit budget",
        "Operations × bits of a weight × bits of an activation × time steps (Shen et al., CVPR 2024).",
    ),
    ("Spikes per synapse", "SynOps ÷ dense MACs of the layers fed by spikes, per inference."),
    (
        "Memory",
        "Weights stored once (float32, or the narrowest two’s complement word that holds a layer’s integers); "
        "membranes of 32 bits in float, 24 bits in integers.",
    ),
)
"""Word and explanation."""
