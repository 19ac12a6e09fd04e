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
    """Return the versions of this package and of its main dependencies, and the name of the device."""
    import torch

    return {
        "worldplay_env": worldplay_env.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": device_name(device),
    }


def world_facts(world: World) -> dict[str, Any]:
    """Return a world's name, weights, picture size and device."""
    return {
        "name": world.name,
        "weights": world.weights,
        "image_size": world.image_size,
        "device": str(world.device),
    }


def device_name(device: torch.device) -> str:
    """Return a device's name, such as "NVIDIA H100 80GB HBM3" or "AMD EPYC 9354, 2 threads"."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor_name()}, {torch.get_num_threads()} threads"


def processor_name() -> str:
    """Return the CPU's model name, or its architecture where the system gives no name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, named), platform.processor() or platform.machine())


def load_average() -> float | None:
    """Return the load average of the last minute; None where the system gives none."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
