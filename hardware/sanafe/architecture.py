"""Loihi 1 in SANA-FE's own terms: a mesh of tiles with the energies and times that its authors fitted to silicon, and tiles
of the host beside it, which send spikes for nothing.

The numbers are those of SANA-FE's description of Loihi; `profilers` has the same in its models, with their sources.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from exporters.errors import DeployError
from hardware.chips.limits import Target
from hardware.chips.placement import Placement, position

SENDERS = 1024
"""So many neurons of the host lie on one of its cores."""

_HOPS = {"north": (4.2, 6.5), "east": (3.0, 4.1), "south": (4.2, 6.5), "west": (3.0, 4.1)}
_SYNC = {1: 0.6e-6, 2: 1.0e-6, 4: 1.4e-6, 29: 1.8e-6}
_SYNAPSES = {"conv": (24.0, 3.1), "dense": (35.5, 3.8)}
PICO, NANO = 1e-12, 1e-9


@dataclass(frozen=True)
class Mesh:
    """The tiles of all chips that a placement takes, side by side, and behind them those of the host.

    Attributes:
        rows, columns: of the chips' tiles.
        cores_per_tile: of a chip.
        host_tiles: one core each.
    """

    rows: int
    columns: int
    cores_per_tile: int
    host_tiles: int

    @property
    def width(self) -> int:
        """Columns of all tiles."""
        return self.columns + -(-self.host_tiles // self.rows)

    def address(self, target: Target, core: int) -> str:
        """A core of the placement as SANA-FE writes it, "tile.core"; its tiles are numbered column by column."""
        x, y = position(target, core) or (0, 0)
        return f"{x * self.rows + y}.{core % self.cores_per_tile}"

    def host_address(self, sender: int) -> str:
        """The core of the host that a sender lies on."""
        return f"{self.columns * self.rows + sender // SENDERS}.0"


def mesh_of(placement: Placement, senders: int) -> Mesh:
    """The mesh for a placement and so many senders of the host.

    Raises:
        DeployError: the chip's mesh is not published.
    """
    target = placement.target
    columns, per_tile = target.get("mesh_columns"), target.get("cores_per_tile")
    if columns is None or per_tile is None:
        raise DeployError(
            f"{target.title}: its mesh is not published, so SANA-FE cannot simulate it; place it on loihi1"
        )
    rows = -(-target["cores_per_chip"] // per_tile // columns)
    return Mesh(rows, columns * placement.chips, per_tile, max(1, -(-senders // SENDERS)))


def architecture(mesh: Mesh, neurons_per_core: int) -> dict[str, Any]:
    """The architecture section of SANA-FE's YAML."""
    hops = {f"{what}_{way}_hop": n * unit for way, of in _HOPS.items() for what, n, unit in _both(of)}
    tiles = mesh.rows * mesh.columns
    # a tile of the host takes part in no barrier: the table begins behind it
    sync = {tiles_ + mesh.host_tiles: seconds for tiles_, seconds in _SYNC.items()}
    core = _core(
        neurons_per_core,
        [
            _unit(
                "lif",
                "leaky_integrate_fire",
                access_neuron=(51.2, 6.0),
                update_neuron=(21.6, 3.7),
                spike_out=(69.3, 30.0),
            )
        ],
        [_unit(name, "current_based", process_spike=of) for name, of in _SYNAPSES.items()],
        (0.0, 16.0),
        (111.0, 5.1),
    )
    nothing = (0.0, 0.0)
    senders = _unit(
        f"sender[0..{SENDERS - 1}]", "input", access_neuron=nothing, update_neuron=nothing, spike_out=nothing
    )
    host = _core(SENDERS, [senders], [_unit("none", "current_based", process_spike=nothing)], nothing, nothing)
    tile = [
        {"name": f"tile[0..{tiles - 1}]", "attributes": hops, "core": [{"name": f"core[0..{mesh.cores_per_tile - 1}]", **core}]},
        {"name": f"host[0..{mesh.host_tiles - 1}]", "attributes": hops, "core": [{"name": "sending", **host}]},
    ]  # fmt: skip
    attributes = {
        "topology": "mesh", "width": mesh.width, "height": mesh.rows, "link_buffer_size": 16,
        "sync_model": "table", "latency_sync": sync,
    }  # fmt: skip
    return {"name": "loihi1", "attributes": attributes, "tile": tile}


def _core(
    neurons: int,
    soma: list[dict[str, Any]],
    synapse: list[dict[str, Any]],
    message_in: tuple[float, float],
    message_out: tuple[float, float],
) -> dict[str, Any]:
    def axon(name: str, of: tuple[float, float]) -> list[dict[str, Any]]:
        return [{"name": name, "attributes": {f"{what}_{name}": n * unit for what, n, unit in _both(of)}}]

    return {
        "attributes": {"buffer_position": "soma", "buffer_inside_unit": False, "max_neurons_supported": neurons},
        "axon_in": axon("message_in", message_in),
        "synapse": synapse,
        "dendrite": [_unit("sum", "accumulator", update=(0.0, 0.0))],
        "soma": soma,
        "axon_out": axon("message_out", message_out),
    }


def _unit(name: str, model: str, **events: tuple[float, float]) -> dict[str, Any]:
    costs = {f"{what}_{event}": n * unit for event, of in events.items() for what, n, unit in _both(of)}
    return {"name": name, "attributes": {"model": model, **costs}}


def _both(of: tuple[float, float]) -> tuple[tuple[str, float, float], tuple[str, float, float]]:
    """Energy in pJ and time in ns."""
    return ("energy", of[0], PICO), ("latency", of[1], NANO)
