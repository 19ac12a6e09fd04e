"""Folders of weights as they are found in the wild, with small sizes and random parameters."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import torch
from safetensors.torch import save_file

from worldplay_env.models.config import AutoencoderConfig, TextConfig, TransformerConfig, WorldConfig
from worldplay_env.weights.checkpoint import (
    RandomWeights,
    load_autoencoder,
    load_text_encoder,
    load_text_model,
    load_transformer,
    upstream_name,
)
from worldplay_env.weights.folder import WeightFiles, write_config

SMALL = WorldConfig(
    name="small",
    image_size=(32, 64),
    transformer=TransformerConfig(
        num_attention_heads=1,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=8,
        freq_dim=8,
        ffn_dim=16,
        num_layers=1,
    ),
    autoencoder=AutoencoderConfig(
        base_dim=4, decoder_base_dim=4, z_dim=4, latents_mean=(0.0,) * 4, latents_std=(1.0,) * 4, num_res_blocks=1
    ),
    text=TextConfig(
        text_len=16, vocab_size=384, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, bytes_tokenizer=True
    ),
)


def transformer_tensors(config: WorldConfig) -> dict[str, torch.Tensor]:
    state = load_transformer(RandomWeights(0), config.transformer).state_dict()
    return {upstream_name(name): tensor for name, tensor in state.items()}


def write_compact(folder: Path) -> Path:
    """A folder as the project exports its own worlds."""
    write_config(SMALL, folder)
    save_file(transformer_tensors(SMALL), folder / "transformer.safetensors")
    save_file(load_autoencoder(RandomWeights(0), SMALL.autoencoder).state_dict(), folder / "autoencoder.safetensors")
    save_file(text_tensors(), folder / "text_encoder.safetensors")
    return folder


def text_tensors() -> dict[str, torch.Tensor]:
    state = load_text_model(RandomWeights(0), SMALL.text).state_dict()
    return {name: state[name] for name in state if name != "encoder.embed_tokens.weight"}


def write_worldplay(folder: Path) -> Path:
    """What is used of the transformer's repository, with small sizes."""
    for name in ("wan_transformer", "wan_distilled_model"):
        (folder / name).mkdir(parents=True)
    config = {"_class_name": "WanTransformer3DModel", **dataclasses.asdict(SMALL.transformer)}
    (folder / "wan_transformer" / "config.json").write_text(json.dumps(config))
    tensors = {f"model.{name}": tensor for name, tensor in transformer_tensors(SMALL).items()}
    torch.save({"generator": tensors}, folder / "wan_distilled_model" / "model.pt")
    return folder


def write_wan(folder: Path) -> Path:
    """What is used of the repository of autoencoder and text encoder, with small sizes."""
    from transformers import ByT5Tokenizer

    for name in ("vae", "text_encoder", "tokenizer"):
        (folder / name).mkdir(parents=True)
    config = dataclasses.asdict(SMALL.autoencoder)
    config["temperal_downsample"] = config.pop("temporal_downsample")
    (folder / "vae" / "config.json").write_text(json.dumps(config))
    weights = load_autoencoder(RandomWeights(0), SMALL.autoencoder).state_dict()
    save_file(weights, folder / "vae" / "diffusion_pytorch_model.safetensors")
    (folder / "text_encoder" / "config.json").write_text(json.dumps(dataclasses.asdict(SMALL.text)))
    write_text_shards(folder / "text_encoder")
    ByT5Tokenizer().save_pretrained(folder / "tokenizer")
    for name in ("special_tokens_map.json", "spiece.model", "tokenizer.json"):  # which this tokenizer does not read
        (folder / "tokenizer" / name).write_text(json.dumps({"stands for": name}))
    return folder


def write_text_shards(folder: Path) -> None:
    tensors = text_tensors()
    names = [f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3)]
    placed = {tensor: names[number % 3] for number, tensor in enumerate(sorted(tensors))}
    for name in names:
        save_file({tensor: tensors[tensor] for tensor, place in placed.items() if place == name}, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))


def load_all(files: WeightFiles) -> None:
    config = files.config
    load_transformer(files.transformer, config.transformer)
    load_autoencoder(files.autoencoder, config.autoencoder)
    load_text_encoder(files.text_encoder, files.tokenizer, config.text).encode(["a path"])


def change_a_value(path: Path) -> None:
    """Write another number into a file of tensors; its name, its size and its time of change stay as they are."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
