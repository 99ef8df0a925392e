"""In which precision a run multiplies: what "auto" of `TrainConfig.precision` stands for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import cast

import safetensors
import torch

from kdsnn.errors import notice
from kdsnn.train.config import Precision, TrainConfig
from kdsnn.train.resume import KEY


def faster_in_bf16(device: torch.device) -> bool:
    """Say whether a device has units that multiply in bf16: a processor with AMX or AVX512-BF16, a GPU that does not
    emulate it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def settled(config: TrainConfig, device: torch.device, state: Path | None = None) -> TrainConfig:
    """Settle "auto": the precision of the run that goes on from `state`, if that is there, or what suits the device."""
    if config.precision != "auto":
        return config
    begun = None if state is None else begun_in(state)
    if begun is not None:
        return replace(config, precision=begun)
    if not faster_in_bf16(device):
        return replace(config, precision="fp32")
    notice("this machine has units for bf16, in which convolutions and linear layers train; precision=fp32 avoids that")
    return replace(config, precision="bf16")


def begun_in(state: Path) -> Precision | None:
    """The precision of the run whose state this is; None where there is no such file, or it does not tell."""
    try:
        with safetensors.safe_open(state, framework="pt") as file:
            precision = json.loads(file.metadata()[KEY])["run"]["precision"]
    except (OSError, safetensors.SafetensorError, ValueError, KeyError, TypeError):
        return None  # what is wrong with a state is said when it is restored
    return cast(Precision, precision) if precision in ("fp32", "bf16") else None
