"""The data that a network was trained on: what verbs work on unless they are told otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from exporters.graph import SpikingGraph
from kdsnn.deploy.images import load_data, require_noise
from kdsnn.deploy.trained import TrainedNetwork
from kdsnn.errors import KdsnnError, OptionError

if TYPE_CHECKING:
    from kdsnn.data import DataSet

OTHERWISE = "digits"
"""The data where neither the user nor the network says which."""


@dataclass(frozen=True)
class OwnData:
    """What a network remembers of its data.

    Attributes:
        spec: the data set, as `load_data` takes it.
        owner: the network, as it is called.
        noise: what `load_data` was told of noise, by argument.
    """

    spec: str
    owner: str
    noise: Mapping[str, Any] = field(default_factory=dict)


def own_data(network: Any, owner: str = "") -> OwnData | None:
    """What a trained network, a graph or the metadata of one remember of their data; None where they say nothing.

    Args:
        network: a `TrainedNetwork`, a `SpikingGraph`, or a mapping that `lower` put into a graph's metadata, which may have
            come back out of anybody's file.
        owner: what the network is called.
    """
    if isinstance(network, TrainedNetwork):
        info = network.info
        return OwnData(info.data, owner or str(network.path or info.model), _noise(info.training.get("noise")))
    metadata = network.metadata if isinstance(network, SpikingGraph) else network
    if not isinstance(metadata, Mapping) or not isinstance(metadata.get("data"), str):
        return None
    return OwnData(metadata["data"], owner or "the network", _noise(metadata.get("noise")))


def own_of(*networks: Any) -> OwnData | None:
    """The data of the first trained network among these, where one is."""
    return next((own_data(one) for one in networks if isinstance(one, TrainedNetwork)), None)


def _noise(found: Any) -> dict[str, Any]:
    """What was said of noise, where it reads as that."""
    kinds = {"noise": int | float, "noise_kind": str, "noise_on": str}
    if not isinstance(found, Mapping) or not all(isinstance(found.get(name), kind) for name, kind in kinds.items()):
        return {}
    return {name: found[name] for name in kinds}


def agreed(found: Sequence[OwnData | None]) -> OwnData | None:
    """The data of several networks that are to be set beside each other.

    Raises:
        OptionError: they were trained on different data, of which only the user can choose.
    """
    known = [own for own in found if own is not None]
    for own in known[1:]:
        if (own.spec, own.noise) != (known[0].spec, known[0].noise):
            raise OptionError(
                f"{known[0].owner} was trained on {known[0].spec} and {own.owner} on {own.spec}"
                f"{' with other noise' if own.spec == known[0].spec else ''}; say on which to compare them with {{data}}",
                data=None,
            )
    return known[0] if known else None


def chosen_data(data: Any, own: OwnData | None) -> Any:
    """What the user names, or else the network's own data, or else digits, as `load_data` takes it."""
    if data is not None:
        return data
    return OTHERWISE if own is None else own.spec


def load_own(data: Any, own: OwnData | None, *, option: str = "data", **options: Any) -> DataSet:
    """The data set that `chosen_data` names, with the noise that the network was trained with where it is its own.

    Raises:
        KdsnnError: as `load_data`; of the network's own data, naming both and the `option` that names others.
    """
    require_noise(**options)
    if data is None and own is not None and not options.get("noise"):
        options = {**options, **own.noise}
    with telling_whose(data, own, option):
        return load_data(chosen_data(data, own), **options)


@contextmanager
def telling_whose(data: Any, own: OwnData | None, option: str = "data") -> Iterator[None]:
    """What is wrong with data inside is said to be wrong with the network's own, if the user named none."""
    try:
        yield
    except KdsnnError as error:
        if data is not None or own is None:
            raise
        reason = " ".join(str(error).split()).rstrip(".")
        if reason.startswith("Unknown data set"):
            reason = "neither a name of `list data` nor a file or folder"
        raise OptionError(
            f"{own.owner} was trained on {own.spec}, which cannot be had here ({reason}); name the data with {{{option}}}",
            **{option: None},
        ) from error
