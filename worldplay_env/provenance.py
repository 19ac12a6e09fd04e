"""What a run writes down beside its pictures: the versions, the machine and the world that it ran with."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import worldplay_env

if TYPE_CHECKING:
    import torch

    from worldplay_env.worlds.base import World


def versions(device: torch.device) -> dict[str, str]:
    """Return the versions of what a run's numbers depend on, and the name of the device."""
    import torch

    return {
        "worldplay_env": worldplay_env.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": device_name(device),
    }


def world_facts(world: World) -> dict[str, Any]:
    """Return which world made a run, and where it ran."""
    return {
        "name": world.name,
        "weights": world.weights,
        "image_size": world.image_size,
        "device": str(world.device),
    }


def device_name(device: torch.device) -> str:
    """Return what a device calls itself, such as "NVIDIA H100 80GB HBM3" or "AMD EPYC 9354, 2 threads"."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor_name()}, {torch.get_num_threads()} threads"


def processor_name() -> str:
    """Return what the CPU calls itself, where the system tells; else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, named), platform.processor() or platform.machine())


def load_average() -> float | None:
    """Return how many processes have wanted a core, on average over the last minute; None where none tells."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
