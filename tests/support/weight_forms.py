"""The forms in which weights come: files, folders, shards, pickles and mappings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from worldplay_env.models.config import TransformerConfig

GOLDEN = Path(__file__).parents[1] / "golden"
CONFIG = TransformerConfig.from_dict(json.loads((GOLDEN / "transformer.json").read_text())["config"])
"""The recorded transformer's."""


def as_file(folder: Path, tensors: dict[str, Tensor]) -> Any:
    save_file(tensors, folder / "weights.safetensors")
    return folder / "weights.safetensors"


def as_text_path(folder: Path, tensors: dict[str, Tensor]) -> Any:
    return str(as_file(folder, tensors))


def as_folder(folder: Path, tensors: dict[str, Tensor]) -> Any:
    as_file(folder, tensors)
    (folder / "config.json").write_text("{}")
    return folder


def as_shards(folder: Path, tensors: dict[str, Tensor]) -> Any:
    names = sorted(tensors)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, members in shards.items():
        save_file({name: tensors[name] for name in members}, folder / file)
    placed = {name: file for file, members in shards.items() for name in members}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return index


def as_folder_of_shards(folder: Path, tensors: dict[str, Tensor]) -> Any:
    return as_shards(folder, tensors).parent


def as_several_files(folder: Path, tensors: dict[str, Tensor]) -> Any:
    as_shards(folder, tensors)
    return sorted(folder.glob("*.safetensors"))


def as_distilled(folder: Path, tensors: dict[str, Tensor], key: str = "generator", prefix: str = "") -> Any:
    torch.save({key: {prefix + name: tensor for name, tensor in tensors.items()}, "step": 3}, folder / "model.pt")
    return folder / "model.pt"


def as_distilled_average(folder: Path, tensors: dict[str, Tensor]) -> Any:
    return as_distilled(folder, tensors, "generator_ema")


def as_distilled_wrapped(folder: Path, tensors: dict[str, Tensor]) -> Any:
    return as_distilled(folder, tensors, prefix="model._fsdp_wrapped_module.")


def as_mapping(folder: Path, tensors: dict[str, Tensor]) -> Any:
    return tensors
