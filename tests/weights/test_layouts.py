"""Checkpoints as people hold them load like upstream's own: other names, prefixes, numbers of 8 bits, pickles."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from weight_forms import CONFIG, GOLDEN

from worldplay_env.models.config import TINY, AutoencoderConfig
from worldplay_env.weights.checkpoint import (
    CheckpointError,
    RandomWeights,
    load_autoencoder,
    load_text_model,
    load_transformer,
    upstream_name,
)
from worldplay_env.weights.files import opened, strip_prefixes, weight_files

KEYS = json.loads((GOLDEN / "keys.json").read_text())
AUTOENCODER = AutoencoderConfig.from_dict(json.loads((GOLDEN / "vae.json").read_text())["config"])
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    return load_file(GOLDEN / "transformer_weights.safetensors")


def named(transformer: torch.nn.Module) -> Tensors:
    state = transformer.state_dict()
    return {upstream_name(name): tensor for name, tensor in state.items()}


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


# --- Wan's own names ----------------------------------------------------------------------------------------

# Diffusers' names to Wan's: the other way round from what is tested, one rule for each kind of name.
TRANSFORMER_RULES = [
    (r"condition_embedder\.text_embedder\.linear_1\.", "text_embedding.0."),
    (r"condition_embedder\.text_embedder\.linear_2\.", "text_embedding.2."),
    (r"condition_embedder\.time_embedder\.linear_1\.", "time_embedding.0."),
    (r"condition_embedder\.time_embedder\.linear_2\.", "time_embedding.2."),
    (r"condition_embedder\.time_proj\.", "time_projection.1."),
    (r"proj_out\.", "head.head."),
    (r"scale_shift_table", "head.modulation"),
    (r"(blocks\.\d+)\.attn1\.to_([qkv])\.", r"\1.self_attn.\2."),
    (r"(blocks\.\d+)\.attn1\.to_out\.0\.", r"\1.self_attn.o."),
    (r"(blocks\.\d+)\.attn1\.norm_", r"\1.self_attn.norm_"),
    (r"(blocks\.\d+)\.attn2\.to_([qkv])\.", r"\1.cross_attn.\2."),
    (r"(blocks\.\d+)\.attn2\.to_out\.0\.", r"\1.cross_attn.o."),
    (r"(blocks\.\d+)\.attn2\.norm_", r"\1.cross_attn.norm_"),
    (r"(blocks\.\d+)\.norm2\.", r"\1.norm3."),
    (r"(blocks\.\d+)\.ffn\.net\.0\.proj\.", r"\1.ffn.0."),
    (r"(blocks\.\d+)\.ffn\.net\.2\.", r"\1.ffn.2."),
    (r"(blocks\.\d+)\.scale_shift_table", r"\1.modulation"),
]
AUTOENCODER_RULES = [
    (r"quant_conv\.", "conv1."),
    (r"post_quant_conv\.", "conv2."),
    (r"(encoder|decoder)\.conv_in\.", r"\1.conv1."),
    (r"(encoder|decoder)\.mid_block\.resnets\.0\.", r"\1.middle.0."),
    (r"(encoder|decoder)\.mid_block\.attentions\.0\.", r"\1.middle.1."),
    (r"(encoder|decoder)\.mid_block\.resnets\.1\.", r"\1.middle.2."),
    (r"(encoder|decoder)\.norm_out\.", r"\1.head.0."),
    (r"(encoder|decoder)\.conv_out\.", r"\1.head.2."),
    (r"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.", r"encoder.downsamples.\1.downsamples.\2."),
    (r"encoder\.down_blocks\.(\d+)\.downsampler\.", r"encoder.downsamples.\1.downsamples.2."),
    (r"decoder\.up_blocks\.(\d+)\.resnets\.(\d+)\.", r"decoder.upsamples.\1.upsamples.\2."),
    (r"decoder\.up_blocks\.(\d+)\.upsampler\.", r"decoder.upsamples.\1.upsamples.3."),
]
RESIDUAL = {"norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6"}
TEXT_RULES = [
    (r"shared\.", "token_embedding."),
    (r"encoder\.final_layer_norm\.", "norm."),
    (r"encoder\.block\.(\d+)\.layer\.0\.layer_norm\.", r"blocks.\1.norm1."),
    (r"encoder\.block\.(\d+)\.layer\.1\.layer_norm\.", r"blocks.\1.norm2."),
    (r"encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.([qkvo])\.", r"blocks.\1.attn.\2."),
    (
        r"encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.relative_attention_bias\.",
        r"blocks.\1.pos_embedding.embedding.",
    ),
    (r"encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_0\.", r"blocks.\1.ffn.gate.0."),
    (r"encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_1\.", r"blocks.\1.ffn.fc1."),
    (r"encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wo\.", r"blocks.\1.ffn.fc2."),
]


def wan_name(name: str, rules: list[tuple[str, str]]) -> str:
    if ".resnets." in name:
        for ours, theirs in RESIDUAL.items():
            name = name.replace(f".{ours}.", f".{theirs}.")
        name = name.replace(".conv_shortcut.", ".shortcut.")
    for pattern, theirs in rules:
        if match := re.match(pattern, name):
            return match.expand(theirs) + name[match.end() :]
    return name  # patch_embedding, and what the original has no counterpart of


def in_wan_names(tensors: Mapping[str, Tensor], rules: list[tuple[str, str]] = TRANSFORMER_RULES) -> Tensors:
    renamed = {wan_name(name, rules): tensor.contiguous() for name, tensor in tensors.items()}
    assert len(renamed) == len(tensors)
    return renamed


def test_a_transformer_in_wans_names_is_loaded(tensors: Tensors) -> None:
    theirs = in_wan_names(tensors)
    assert "blocks.0.self_attn.q.weight" in theirs
    assert "blocks.1.cross_attn.norm_k.weight" in theirs
    assert_same(named(load_transformer(theirs, CONFIG)), tensors)


def test_every_name_of_the_real_models_is_found_under_its_wan_name() -> None:
    for part, rules in (("transformer", TRANSFORMER_RULES), ("vae", AUTOENCODER_RULES)):
        names = KEYS[part]["keys"]
        theirs = in_wan_names({name: torch.empty(0) for name in names}, rules)
        with opened(theirs, torch.device("cpu")) as entries:
            assert entries.keys() == names.keys()


def test_an_autoencoder_in_wans_names_is_loaded_from_a_pth(tmp_path: Path) -> None:
    state = load_autoencoder(RandomWeights(3), AUTOENCODER).state_dict()
    torch.save(in_wan_names(state, AUTOENCODER_RULES), tmp_path / "Wan2.2_VAE.pth")
    assert_same(load_autoencoder(tmp_path / "Wan2.2_VAE.pth", AUTOENCODER).state_dict(), state)
    assert_same(load_autoencoder(tmp_path, AUTOENCODER).state_dict(), state)


def test_a_text_encoder_in_wans_names_is_loaded() -> None:
    state = load_text_model(RandomWeights(3), TINY.text).state_dict()
    names = [name for name in state if name != "encoder.embed_tokens.weight"]
    theirs = in_wan_names({name: state[name] for name in names}, TEXT_RULES)
    assert {"token_embedding.weight", "norm.weight", "blocks.1.ffn.gate.0.weight"} <= theirs.keys()
    assert_same(load_text_model(theirs, TINY.text).state_dict(), state)


def test_a_text_encoder_of_comfyui_brings_its_words_along_unread() -> None:
    state = load_text_model(RandomWeights(3), TINY.text).state_dict()
    names = [name for name in state if name != "encoder.embed_tokens.weight"]
    theirs = {name: state[name].to(torch.float8_e4m3fn) for name in names}
    theirs |= {"spiece_model": torch.zeros(9, dtype=torch.uint8)}
    found = load_text_model(theirs, TINY.text).state_dict()
    assert_same({name: found[name] for name in names}, {name: theirs[name].float() for name in names})


def test_what_wans_own_weights_lack_is_told_with_what_they_were_taken_for(tensors: Tensors) -> None:
    plain = {name: tensor for name, tensor in tensors.items() if "action_embedder" not in name}
    with pytest.raises(CheckpointError, match=r"taken for: Wan's own names\); 4 missing: .*action_embedder"):
        load_transformer(in_wan_names(plain), CONFIG)


def test_one_tensor_under_both_names_is_an_error(tensors: Tensors) -> None:
    twice = in_wan_names(tensors) | {"proj_out.bias": tensors["proj_out.bias"]}
    with pytest.raises(CheckpointError, match="under Wan's names and diffusers'"):
        load_transformer(twice, CONFIG)


# --- prefixes and pickles -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        "model.diffusion_model.proj_out.bias",
        "diffusion_model.proj_out.bias",
        "module.proj_out.bias",
        "_orig_mod.proj_out.bias",
        "module._orig_mod.proj_out.bias",
        "_orig_mod.module.proj_out.bias",
        "generator.model._fsdp_wrapped_module.proj_out.bias",
        "generator.model.proj_out.bias",
    ],
)
def test_prefixes_are_removed_one_after_the_other(raw: str) -> None:
    assert strip_prefixes(raw) == "proj_out.bias"


def test_wrappers_are_removed_within_a_name_and_whole_words_only() -> None:
    assert strip_prefixes("blocks.0._orig_mod.ffn.net.2.bias") == "blocks.0.ffn.net.2.bias"
    assert strip_prefixes("my_orig_mod.bias") == "my_orig_mod.bias"
    assert strip_prefixes("blocks.0.model.bias") == "blocks.0.model.bias"


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "module.", "_orig_mod.", "module._orig_mod."])
def test_a_whole_checkpoint_under_a_prefix_is_loaded(prefix: str, tensors: Tensors) -> None:
    prefixed = {prefix + name: tensor for name, tensor in tensors.items()}
    assert_same(named(load_transformer(prefixed, CONFIG)), tensors)
    comfy = {prefix + name: tensor for name, tensor in in_wan_names(tensors).items()}
    assert_same(named(load_transformer(comfy, CONFIG)), tensors)
    del comfy[prefix + "head.head.bias"]
    kind = "ComfyUI's prefix" if "diffusion" in prefix else "a training wrapper's prefix"
    with pytest.raises(CheckpointError, match=rf"Wan's own names, {kind}\); 1 missing: proj_out\.bias"):
        load_transformer(comfy, CONFIG)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"gen_model": state},
        lambda state: {"model": {"generator": state}, "optimizer": {"state": {}}},
        lambda state: {"generator_ema": {}, "generator": state},
    ],
    ids=["bare", "state_dict", "gen_model", "nested", "beside others"],
)
def test_a_pickle_is_loaded_wherever_in_it_the_tensors_are(
    wrap: Callable[[Any], Any], suffix: str, tmp_path: Path, tensors: Tensors
) -> None:
    torch.save(wrap(tensors), tmp_path / f"model{suffix}")
    assert_same(named(load_transformer(tmp_path / f"model{suffix}", CONFIG)), tensors)


def test_a_pickle_of_the_old_format_is_loaded(tmp_path: Path, tensors: Tensors) -> None:
    torch.save(tensors, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert_same(named(load_transformer(tmp_path / "old.pth", CONFIG)), tensors)


# --- numbers of 8 bits --------------------------------------------------------------------------------------


def matrices(tensors: Tensors) -> list[str]:
    return [name for name in tensors if name.endswith(".weight") and tensors[name].dim() == 2]


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_of_8_bits_become_those_that_are_computed_with(
    kind: torch.dtype, dtype: torch.dtype, tmp_path: Path, tensors: Tensors
) -> None:
    small = {name: tensor.to(kind) for name, tensor in tensors.items()}
    save_file(small, tmp_path / "fp8.safetensors")
    found = named(load_transformer(tmp_path / "fp8.safetensors", CONFIG, dtype=dtype))
    assert_same(found, {name: tensor.to(dtype) for name, tensor in small.items()})


def scaled(tensors: Tensors, end: str, *, by_row: bool = False) -> tuple[Tensors, Tensors]:
    """Return a checkpoint of 8 bits with scales, and the values that it stands for."""
    saved, meant = dict(tensors), dict(tensors)
    for name in matrices(tensors):
        weight = tensors[name]
        scale = weight.abs().amax(1, keepdim=True) / 448 if by_row else weight.abs().max() / 448
        saved[name] = (weight / scale).to(torch.float8_e4m3fn)
        saved[name.removesuffix(".weight") + end] = scale
        meant[name] = saved[name].float() * scale
    return saved, meant


@pytest.mark.parametrize("by_row", [False, True], ids=["one scale", "a scale a row"])
@pytest.mark.parametrize("end", [".scale_weight", ".weight_scale"])
def test_scales_are_multiplied_in(end: str, by_row: bool, tmp_path: Path, tensors: Tensors) -> None:
    saved, meant = scaled(tensors, end, by_row=by_row)
    saved["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    layer = matrices(tensors)[0].removesuffix(".weight")
    saved[f"{layer}.scale_input"] = torch.ones(())
    saved[f"{layer}.comfy_quant"] = torch.tensor([1], dtype=torch.uint8)
    prefixed = {"model.diffusion_model." + name: tensor for name, tensor in in_wan_names(saved).items()}
    save_file(prefixed, tmp_path / "scaled.safetensors")
    assert_same(named(load_transformer(tmp_path / "scaled.safetensors", CONFIG)), meant)
    low = named(load_transformer(tmp_path / "scaled.safetensors", CONFIG, dtype=torch.bfloat16))
    assert_same(low, {name: tensor.bfloat16() for name, tensor in meant.items()})


def test_scales_that_are_announced_and_missing_or_misshapen_are_errors(tensors: Tensors) -> None:
    saved, _ = scaled(tensors, ".scale_weight")
    saved["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    first = matrices(tensors)[0].removesuffix(".weight") + ".scale_weight"
    with pytest.raises(CheckpointError, match=r"8 bits have scales \(scaled_fp8\), and 1 have none"):
        load_transformer({name: tensor for name, tensor in saved.items() if name != first}, CONFIG)
    with pytest.raises(CheckpointError, match="a scale must be one number or one a row"):
        load_transformer(saved | {first: torch.ones(3)}, CONFIG)


def test_a_scale_without_its_weight_is_unexpected(tensors: Tensors) -> None:
    with pytest.raises(CheckpointError, match=r"1 unexpected: nothing\.scale_weight"):
        load_transformer(tensors | {"nothing.scale_weight": torch.ones(())}, CONFIG)


# --- shards without an index, pointers ----------------------------------------------------------------------


def write_shards(folder: Path, tensors: Tensors, count: int = 3) -> list[Path]:
    names = sorted(tensors)
    paths = [folder / f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
    for number, path in enumerate(paths):
        save_file({name: tensors[name] for name in names[number::count]}, path)
    return paths


def test_shards_without_an_index_complete_each_other_or_are_told_to_be_missing(
    tmp_path: Path, tensors: Tensors
) -> None:
    paths = write_shards(tmp_path, tensors)
    assert weight_files(tmp_path) == paths
    assert_same(named(load_transformer(tmp_path, CONFIG)), tensors)
    paths[0].unlink()
    paths[2].unlink()
    missing = "of 3 shards these are not there: model-00001-of-00003.safetensors, model-00003-of-00003.safetensors"
    with pytest.raises(CheckpointError, match=missing):
        load_transformer(tmp_path, CONFIG)


def test_shards_of_two_sets_are_not_mixed(tmp_path: Path, tensors: Tensors) -> None:
    write_shards(tmp_path, tensors, 2)
    write_shards(tmp_path, tensors, 3)
    with pytest.raises(CheckpointError, match="several sets of shards could be meant: model of 2, model of 3"):
        load_transformer(tmp_path, CONFIG)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "model-00001-of-00001.safetensors"])
def test_a_git_lfs_pointer_is_told_as_such(name: str, tmp_path: Path) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 11000000000\n"
    (tmp_path / name).write_text(pointer)
    for source in (tmp_path / name, tmp_path):
        with pytest.raises(CheckpointError, match=rf"{name}: a git-LFS pointer.*git lfs pull"):
            load_transformer(source, CONFIG)
