"""Checkpoints fill the networks from every form of a source."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from weight_forms import (
    CONFIG,
    GOLDEN,
    as_distilled,
    as_distilled_average,
    as_distilled_wrapped,
    as_file,
    as_folder,
    as_folder_of_shards,
    as_mapping,
    as_several_files,
    as_shards,
    as_text_path,
)

from worldplay_env.models.config import WAN_5B, AutoencoderConfig
from worldplay_env.models.wan.autoencoder import Autoencoder
from worldplay_env.models.worldplay.transformer import Transformer
from worldplay_env.weights.checkpoint import (
    load_autoencoder,
    load_transformer,
    upstream_name,
)
from worldplay_env.weights.files import strip_prefixes

KEYS = json.loads((GOLDEN / "keys.json").read_text())
AUTOENCODER_CONFIG = AutoencoderConfig.from_dict(json.loads((GOLDEN / "vae.json").read_text())["config"])
WEIGHTS = GOLDEN / "transformer_weights.safetensors"
AUTOENCODER_WEIGHTS = [GOLDEN / "vae_encoder_weights.safetensors", GOLDEN / "vae_decoder_weights.safetensors"]


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return load_file(WEIGHTS)


def named(transformer: Transformer) -> dict[str, Tensor]:
    state = transformer.state_dict()
    return {upstream_name(name): tensor for name, tensor in state.items()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_upstream_names_and_shapes_of_the_real_transformer_are_ours() -> None:
    with torch.device("meta"):
        transformer = Transformer(WAN_5B.transformer)
    assert {name: list(tensor.shape) for name, tensor in named(transformer).items()} == KEYS["transformer"]["keys"]


def test_upstream_names_and_shapes_of_the_real_autoencoder_are_ours() -> None:
    with torch.device("meta"):
        autoencoder = Autoencoder(WAN_5B.autoencoder)
    assert {name: list(tensor.shape) for name, tensor in autoencoder.state_dict().items()} == KEYS["vae"]["keys"]


@pytest.mark.parametrize(("raw", "name"), KEYS["checkpoint"]["examples"])
def test_prefixes_are_stripped_as_recorded(raw: str, name: str) -> None:
    assert strip_prefixes(raw) == name


FORMS = [
    as_file,
    as_text_path,
    as_folder,
    as_shards,
    as_folder_of_shards,
    as_several_files,
    as_distilled,
    as_distilled_average,
    as_distilled_wrapped,
    as_mapping,
]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_source_fills_the_transformer(
    form: Callable[[Path, dict[str, Tensor]], Any], tmp_path: Path, tensors: dict[str, Tensor]
) -> None:
    transformer = load_transformer(form(tmp_path, tensors), CONFIG)
    assert_same(named(transformer), tensors)
    assert not transformer.training


@pytest.mark.parametrize("form", FORMS)
def test_loaded_parameters_share_no_memory_with_their_source(
    form: Callable[[Path, dict[str, Tensor]], Any], tmp_path: Path, tensors: dict[str, Tensor]
) -> None:
    source_tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    transformer = load_transformer(form(tmp_path, source_tensors), CONFIG)
    for tensor in source_tensors.values():
        tensor.fill_(7)
    for file in [*tmp_path.glob("*.safetensors"), *tmp_path.glob("*.pt")]:
        with file.open("r+b") as handle:  # in place: a view of the mapped file would see it
            handle.write(b"\x07" * file.stat().st_size)
    assert_same(named(transformer), tensors)


def test_the_autoencoder_is_filled_from_two_files_that_complete_each_other() -> None:
    autoencoder = load_autoencoder(AUTOENCODER_WEIGHTS, AUTOENCODER_CONFIG)
    assert_same(autoencoder.state_dict(), load_file(AUTOENCODER_WEIGHTS[0]) | load_file(AUTOENCODER_WEIGHTS[1]))


def test_tensors_take_the_dtype_asked_for(tensors: dict[str, Tensor]) -> None:
    transformer = load_transformer(WEIGHTS, CONFIG, dtype=torch.bfloat16)
    assert_same(named(transformer), {name: tensor.bfloat16() for name, tensor in tensors.items()})


class AllocatedBytes(TorchDispatchMode):
    """Counts the bytes of the new memory that operations give their results, off the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and not result.is_meta:
            known = {arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, Tensor) and not arg.is_meta}
            if result.untyped_storage().data_ptr() not in known:
                self.count += result.untyped_storage().nbytes()
        return result


@pytest.mark.parametrize("form", [as_file, as_shards, as_distilled])
def test_loading_allocates_the_parameters_once_and_nothing_else(
    form: Callable[[Path, dict[str, Tensor]], Any], tmp_path: Path, tensors: dict[str, Tensor]
) -> None:
    source = form(tmp_path, tensors)
    with AllocatedBytes() as allocated:
        load_transformer(source, CONFIG, dtype=torch.bfloat16)
    assert allocated.count == 2 * sum(tensor.numel() for tensor in tensors.values())
