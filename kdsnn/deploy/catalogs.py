"""What there is to choose from: architectures, data sets, energy and step-time models, targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping


def models() -> list[dict[str, str]]:
    """The architectures, each with its ANN's parameters and thop's FLOPs on images of MNIST's and CIFAR's size, 10 classes."""
    from kdsnn.models import MODELS

    return [_model_row(name) for name in MODELS]


def data_sets() -> list[dict[str, str]]:
    """The forms that `load_data` takes."""
    from kdsnn.data import DESCRIPTIONS

    return [{"data": name, "description": text} for name, text in DESCRIPTIONS.items()]


def targets() -> list[dict[str, str]]:
    """The chips, one row per limit."""
    from hardware.chips import limits

    return [
        {
            "target": t.name,
            "limit": key.replace("_", " "),
            "value": f"{limit.value:,}",
            "unit": limit.unit,
            "confidence": limit.confidence,
            "source": limit.source.citation,
            "note": limit.note,
        }
        for t in limits.targets().values()
        for key, limit in t.limits.items()
    ]


def energy_models() -> list[dict[str, str]]:
    """The built-in energy models."""
    from profilers.energy.models import built_in

    return [
        {
            "model": m.name,
            "precision": m.precision,
            "technology": m.technology,
            "basis": m.basis,
            "source": "; ".join(s.citation for s in m.sources.values()),
        }
        for m in built_in().values()
    ]


def time_models() -> list[dict[str, str]]:
    """The built-in step-time models."""
    from profilers.energy.time_models import built_in

    return [
        {
            "model": m.name,
            "target": m.target,
            "basis": m.basis,
            "boundary": m.boundary,
            "source": "; ".join(s.citation for s in m.sources.values()),
        }
        for m in built_in().values()
    ]


CATALOGS: Mapping[str, Callable[[], list[dict[str, str]]]] = {
    "models": models,
    "data": data_sets,
    "energy-models": energy_models,
    "time-models": time_models,
    "targets": targets,
}
"""Catalog → its rows, text in every column."""


def _model_row(name: str) -> dict[str, str]:
    from kdsnn.errors import KdsnnError
    from kdsnn.models import MODELS, build
    from profilers.counting.flops import count_module

    row = {"model": name}
    for data, shape in (("MNIST", (1, 28, 28)), ("CIFAR", (3, 32, 32))):
        try:
            counts = count_module(build(name, spiking=False, input_shape=shape, classes=10), shape)
        except KdsnnError:  # an image this architecture is not made for
            row |= {f"parameters, {data}": "–", f"FLOPs, {data}": "–"}
            continue
        row |= {f"parameters, {data}": f"{counts.parameters:,}", f"FLOPs, {data}": f"{counts.thop / 1e6:.2f} M"}
    options = ", ".join(f"{k}={v}" for k, v in MODELS[name].options.items())
    return row | {"options": options, "description": MODELS[name].description}
