"""The verb `summary`: what a network is, layer by layer, without any data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsnn.deploy.brought import require_unlowered
from kdsnn.deploy.layer_summary import (
    LayerSummary,
    ann_onnx_layers,
    graph_layers,
    module_layers,
    spiking_onnx_layers,
)
from kdsnn.deploy.load import ann_of, load, trained_by_us
from kdsnn.deploy.lower import lower
from kdsnn.deploy.progress import Progress, silent
from kdsnn.deploy.tables import Result
from kdsnn.deploy.trained import TrainedNetwork
from kdsnn.errors import OptionError
from kdsnn.factory import is_factory
from profilers.text_table import TextTable, table

if TYPE_CHECKING:
    from torch import nn

    from exporters.graph import Shape, SpikingGraph
    from hardware.chips.limits import Target
    from hardware.chips.placement import Placement
    from kdsnn.deploy.lower import NetworkSource
    from kdsnn.deploy.lowered import Lowered


@dataclass(frozen=True, eq=False, repr=False)
class Summary(Result):
    """What a network is, layer by layer.

    Attributes:
        name: of the network.
        T: time steps; None of an ANN.
        input_shape: of one sample, or of one frame.
        layers: in order; of a lowered network BatchNorm is folded into them.
        parameters: weights and biases; what two layers share counts once.
        target: the chip that it is placed on, "" where none is.
        chips: of these; None where it has no placement.
        bits: of a weight on the chip.
        notes: sentences to read with it.
    """

    name: str
    T: int | None
    input_shape: Shape
    layers: tuple[LayerSummary, ...]
    parameters: int
    target: str = ""
    chips: int | None = None
    bits: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def macs(self) -> int:
        """Dense multiply-accumulates of one time step; of an ANN of one image."""
        return sum(layer.macs or 0 for layer in self.layers)

    @property
    def neurons(self) -> int | None:
        """Spiking neurons; None of an ANN."""
        return None if self.T is None else sum(layer.neurons or 0 for layer in self.layers)

    @property
    def cores(self) -> int | None:
        """Neurocores; None where it is not placed."""
        return None if self.chips is None else sum(layer.cores or 0 for layer in self.layers)

    def tables(self) -> tuple[TextTable, ...]:
        """A line for each layer, and one for all; columns that say nothing are left out."""
        rows = [_cells(layer) for layer in self.layers]
        total = [
            "all layers", "", "", f"{self.parameters:,}", f"{self.macs:,}", _count(self.neurons), "", "", "", _count(self.cores),
        ]  # fmt: skip
        macs = "MACs" if self.T is None else "MACs/step"
        heads = ["layer", "kind", "output", "parameters", macs, "neurons", "threshold", "leak", "reset", "cores"]
        kept = [i for i in range(len(heads)) if any(row[i] not in ("", "–") for row in [*rows, total])]
        lines = [[row[i] for i in kept] for row in [*rows, total]]
        return (table(self.title, [heads[i] for i in kept], lines),)

    @property
    def title(self) -> str:
        """The network, its input and time, and the chip."""
        shape = "×".join(map(str, self.input_shape))
        time = "ANN" if self.T is None else f"T={self.T}"
        chip = ""
        if self.chips is not None:
            bits = "" if self.bits is None else f" with {self.bits}-bit weights"
            chip = f"; cores of {self.target}{bits}"
        return f"{self.name}: {time}, input {shape}{chip}"

    def __str__(self) -> str:
        return "\n".join([*map(str, self.tables()), *self.notes])

    __repr__ = __str__

    def rows(self) -> list[dict[str, Any]]:
        """One row per layer."""
        return [asdict(layer) for layer in self.layers]

    def to_dict(self) -> dict[str, Any]:
        """The network, its layers and totals."""
        return {
            "name": self.name, "T": self.T, "input_shape": list(self.input_shape), "target": self.target or None,
            "bits": self.bits, "parameters": self.parameters, "macs": self.macs, "neurons": self.neurons,
            "cores": self.cores, "chips": self.chips, "layers": self.rows(), "notes": list(self.notes),
        }  # fmt: skip


def summary(
    source: NetworkSource, *, target: str | Path = "loihi1", progress: Progress = silent, **lowering: Any
) -> Summary:
    """Say what a network is, layer by layer: output shapes, parameters, multiply-accumulates, neurons, and the neurocores
    they take. No data is needed.

    Args:
        source: whatever `lower` takes, an ANN's checkpoint, or an `.onnx` file of this program or of an ANN. A module or a factory
            without `T` is an ANN.
        target: the chip, "loihi1" or "loihi2", or a file that describes another.
        progress: told how far calibration is.
        **lowering: of `lower`, for a source that is not lowered yet; `bits` decide what memory it takes on the chip.

    Raises:
        KdsnnError, DeployError: it cannot be read or lowered; that it has no place on the chip is no error but a note.
    """
    from hardware.chips import limits

    chip = limits.target(str(target))  # said before anything is loaded
    if isinstance(source, str | Path) and Path(source).suffix == ".onnx":
        return _of_onnx(Path(source), lowering)
    if (ann := _ann(source, lowering)) is not None:
        return ann
    network = lower(source, progress=progress, **lowering)
    graph = network.graph or network.integer
    members, placed, notes = _placed(network, chip)
    layers = graph_layers(graph, placed, members)
    return Summary(
        network.name, graph.T, network.input_shape, tuple(layers), _parameters(graph), chip.title,
        None if placed is None else placed.chips, network.bits, (*_folded(network), *notes),
    )  # fmt: skip


def _ann(source: Any, lowering: dict[str, Any]) -> Summary | None:
    """The summary of what has no time steps: an ANN's checkpoint, or a module for which no `T` is given."""
    trained, weights = ann_of(source), lowering.get("weights")
    text = str(source) if isinstance(source, str | Path) else ""
    if weights is not None and is_factory(text) and trained_by_us(weights):
        found = load(weights, module=text)
        trained = None if found.info.spiking else found
    if trained is not None:
        takes = ("weights",) if is_factory(text) else ()
        require_unlowered(trained.path or trained.info.model, lowering, "an ANN", takes=takes)
        name = trained.path.name if trained.path else trained.info.model
        return _of_module(name, trained.module, trained.info.input_shape)
    given, shape = lowering.get("T"), lowering.get("input_shape")
    if given is not None or shape is None or (weights is not None and trained_by_us(weights)):
        return None
    module = _module(source, text, weights)
    return None if module is None else _of_module(text or type(module).__name__.lower(), module, tuple(shape))


def _module(source: Any, text: str, weights: Any) -> nn.Module | None:
    if is_factory(text):
        from kdsnn.deploy.factory import module_of

        return module_of(text, weights)
    from kdsnn.deploy.lowered import Lowered

    return None if text or isinstance(source, Lowered | TrainedNetwork) or not hasattr(source, "forward") else source


def _of_module(name: str, module: nn.Module, shape: Shape) -> Summary:
    from kdsnn.deploy.factory import has_spiking_neurons
    from kdsnn.train.calling import in_eval

    if has_spiking_neurons(module):
        raise OptionError(f"{name}: a network with spiking neurons needs {{T}} (time steps)", T=None)
    with in_eval(module):
        layers = module_layers(name, module, shape)
    return Summary(name, None, shape, tuple(layers), sum(p.numel() for p in module.parameters()))


def _of_onnx(path: Path, lowering: dict[str, Any]) -> Summary:
    from exporters import onnx

    require_unlowered(path, lowering, "a finished model")
    if not onnx.is_spiking(path):
        ann = onnx.load_ann(path)
        layers = ann_onnx_layers(ann)
        return Summary(path.name, None, ann.input_shape, tuple(layers), sum(layer.parameters for layer in layers))
    model = onnx.load(path)
    layers = spiking_onnx_layers(model)
    facts = model.facts
    units = ("Thresholds are in the integers of the chip.",) if facts["arithmetic"] == "integer" else ()
    note = "A finished model is not placed; give the checkpoint, .nir or .net file for its cores."
    return Summary(
        path.name, facts["T"], tuple(facts["input_shape"]), tuple(layers), sum(layer.parameters for layer in layers),
        notes=(*units, note),
    )  # fmt: skip


def _placed(network: Lowered, chip: Target) -> tuple[Mapping[str, Any], Placement | None, tuple[str, ...]]:
    """Where neuron layers are in the chain that is placed, its placement, and what is to be said of it; why there is none."""
    from exporters.errors import DeployError
    from exporters.passes.chain import to_chain
    from hardware.chips import fit

    try:
        chain = to_chain(network.integer)
        found = fit.check(chain, chip, scales=network.layer_scales)
    except DeployError as error:
        return {}, None, (f"Not placed on {chip.title}: {' '.join(str(error).split())}",)
    members = chain.metadata.get("members", {})
    errors = [": ".join(filter(None, (one.layer, one.what))) for one in found.findings if one.severity == "error"]
    notes = (f"Does not fit {chip.title}: {errors[0]}; `check` says what to change.",) if errors else ()
    if found.placement is None:
        return members, None, notes
    return members, found.placement, (_placement_note(network, members, found.placement), *notes)


def _placement_note(network: Lowered, members: Mapping[str, Any], placed: Placement) -> str:
    """How many neurons are on how many cores, how many of them only the chip has, and what runs on the host."""
    graph = network.graph or network.integer
    on_chip = {layer.neurons_name: layer.neurons for layer in placed.layers}
    homes = {name: members.get(name, [name])[0] for name in (*graph.neurons, graph.output_name)}
    own = sum(math.prod(graph.shapes[name]) for name, home in homes.items() if home in on_chip)
    extra = sum(on_chip.values()) - own
    more = f", {extra:,} of which pool spikes or relay them past layers" if extra > 0 else ""
    host = f"; {', '.join(placed.host)} runs on the host, which reads the pixels" if placed.host else ""
    chips = f"{placed.chips} chip{'s' if placed.chips > 1 else ''}"
    return f"{placed.cores:,} neurocores on {chips} hold {sum(on_chip.values()):,} neurons{more}{host}."


def _folded(network: Lowered) -> tuple[str, ...]:
    """What folding BatchNorm made of a module's parameters, and which units thresholds are in."""
    if network.graph is None:
        return ("Weights and thresholds are the integers of the chip.",)
    if network.module is None:
        return ()
    before, after = sum(p.numel() for p in network.module.parameters()), _parameters(network.graph)
    return (
        ()
        if before == after
        else (f"The module itself has {before:,} parameters; BatchNorm is folded into layers here.",)
    )


def _parameters(graph: SpikingGraph) -> int:
    from profilers.counting.sizes import graph_size

    return graph_size(graph).parameters


def _cells(layer: LayerSummary) -> list[str]:
    leak = "" if layer.leak in (None, 1.0) else f"{layer.leak:.4g}"
    if layer.current_leak:
        leak = f"{leak or 1}, current {layer.current_leak:.4g}"
    return [
        layer.name, layer.kind, "×".join(map(str, layer.shape)), f"{layer.parameters:,}" if layer.parameters else "",
        _count(layer.macs), _count(layer.neurons), "" if layer.threshold is None else f"{layer.threshold:,.6g}", leak,
        layer.reset or "", _count(layer.cores),
    ]  # fmt: skip


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
