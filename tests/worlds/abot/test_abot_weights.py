"""ABot-World's files: found, recognised, and loaded strictly under their own names."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import golden
import numpy as np
import pytest
import torch
from golden_cases.abot import autoencoder_config, text_config, transformer_config
from safetensors.torch import load_file, save_file

import worldplay_env
from worldplay_env.models.abot.config import ABOT_5B, ABOT_SMALL, AbotWorldConfig, WindowConfig
from worldplay_env.models.wan.autoencoder import Autoencoder
from worldplay_env.models.wan.small_decoder import SmallCodec, SmallDecoderConfig
from worldplay_env.weights.checkpoint import CheckpointError
from worldplay_env.weights.convert import convert
from worldplay_env.weights.folder import SMALL_DECODER, abot_files, read_config, write_config
from worldplay_env.weights.hub import folder_config
from worldplay_env.weights.repositories import ABOT
from worldplay_env.worlds import registry
from worldplay_env.worlds.abot.world import AbotWorld
from worldplay_env.worlds.base import Start
from worldplay_env.worlds.follow import next_control

RECORDED = golden.ABOT_FOLDER
TRANSFORMER, AUTOENCODER = "diffusion_pytorch_model.safetensors", "Wan2.2_VAE.pth"
TEXT = "models_t5_umt5-xxl-enc-bf16.pth"


def recorded(name: str) -> dict[str, object]:
    return json.loads((RECORDED / f"abot_{name}.json").read_text())


def config() -> AbotWorldConfig:
    """Return the sizes of the recorded networks."""
    rollout = recorded("rollout_references")
    text = replace(text_config(recorded("text")["text_config"], 20), bytes_tokenizer=True)
    return AbotWorldConfig(
        name="recorded",
        image_size=(64, 96),
        transformer=transformer_config(rollout["config"]),
        autoencoder=autoencoder_config(rollout["autoencoder_config"]),
        text=text,
        window=WindowConfig(reference_size=64),
        small_decoder=SmallDecoderConfig(tuple(recorded("taew")["config"]["widths"])),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder as upstream publishes it, with small networks under upstream's names."""
    write_config(config(), tmp_path)
    transformer = load_file(RECORDED / "abot_rollout_weights.safetensors")
    save_file({f"model.{name}": tensor for name, tensor in transformer.items()}, tmp_path / TRANSFORMER)
    torch.save(load_file(RECORDED / "abot_vae_weights.safetensors"), tmp_path / AUTOENCODER)
    torch.save(load_file(RECORDED / "abot_text_weights.safetensors"), tmp_path / TEXT)
    small = {"encoder.0.weight": torch.zeros(1), **load_file(RECORDED / "abot_taew_weights.safetensors")}
    torch.save(small, tmp_path / SMALL_DECODER)
    return tmp_path


def test_a_folder_of_its_files_is_a_world(folder: Path) -> None:
    world = worldplay_env.load(folder, device="cpu")
    assert isinstance(world, AbotWorld)
    assert registry.describe(folder) == world.spec
    assert world.weights_hash == abot_files(folder, None).content_hash
    assert world.weights == world.weights_hash[:12]
    picture = np.zeros((64, 96, 3), np.uint8)
    rollout = world.start(Start(picture), 0, prompt_embedding=torch.zeros(20, 24))
    [chunk] = world.step([rollout], [next_control(rollout, 9)])
    assert tuple(chunk.frames.shape) == (9, 64, 96, 3)
    name = "blocks.0.self_attn.q.weight"
    ours = world.transformer.get_parameter("blocks.0.self_attention.to_q.weight")
    assert torch.equal(ours, load_file(RECORDED / "abot_rollout_weights.safetensors")[name])


@pytest.mark.parametrize("file", [TRANSFORMER, AUTOENCODER, TEXT, SMALL_DECODER])
@pytest.mark.parametrize("fault", ["missing", "unexpected", "misshapen"])
def test_every_file_is_read_strictly(folder: Path, file: str, fault: str) -> None:
    path = folder / file
    tensors = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    last = max(name for name in tensors if name != "encoder.0.weight")
    if fault == "missing":
        del tensors[last]
    elif fault == "misshapen":
        tensors[last] = torch.zeros(2, 3)
    else:
        tensors[f"{last}.more"] = torch.zeros(1)
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    with pytest.raises(CheckpointError, match=r"missing|unexpected|of another shape"):
        worldplay_env.load(folder, device="cpu")


def test_the_small_decoder_is_the_default_and_the_full_one_an_option(folder: Path) -> None:
    small, full = (worldplay_env.load(folder, device="cpu", decoder=decoder) for decoder in (None, "full"))
    assert isinstance(small.codec, SmallCodec)
    assert isinstance(full.codec, Autoencoder)
    assert small.weights_hash != full.weights_hash  # so that neither reads the other's rollouts
    with pytest.raises(ValueError, match="unknown decoder 'tiny': known are full, small"):
        worldplay_env.load(folder, device="cpu", decoder="tiny")
    (folder / SMALL_DECODER).unlink()
    with pytest.raises(CheckpointError, match=rf"needs the file {SMALL_DECODER}"):
        worldplay_env.load(folder, device="cpu")


def test_kernels_with_more_rows_keep_their_last_ones(folder: Path) -> None:
    tensors = torch.load(folder / SMALL_DECODER, weights_only=True)
    name = "decoder.7.conv.weight"
    kernel = tensors[name]
    tensors[name] = torch.cat([torch.full_like(kernel, 9.0), kernel])
    torch.save(tensors, folder / SMALL_DECODER)
    codec = worldplay_env.load(folder, device="cpu").codec
    assert torch.equal(codec.get_parameter(name), kernel)


@pytest.mark.parametrize(
    ("file", "network"), [(TRANSFORMER, "transformer"), (AUTOENCODER, "autoencoder"), (TEXT, "text encoder")]
)
def test_its_files_are_converted_and_load_as_they_did(folder: Path, file: str, network: str) -> None:
    before = worldplay_env.load(folder, device="cpu", decoder="full")
    done = convert(folder / file, folder / "converted.safetensors", str(folder))
    assert done.network == network
    tensors = load_file(folder / "converted.safetensors")
    if file == TRANSFORMER:
        (folder / "converted.safetensors").replace(folder / file)
    else:
        torch.save(tensors, folder / file)
    after = worldplay_env.load(folder, device="cpu", decoder="full")
    assert after is not before
    for part in ("transformer", "codec"):
        pairs = zip(getattr(before, part).parameters(), getattr(after, part).parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


def test_pickles_run_no_code(folder: Path) -> None:
    torch.save({"decoder": print}, folder / AUTOENCODER)
    with pytest.raises(CheckpointError):
        worldplay_env.load(folder, device="cpu")


def test_without_a_configuration_the_sizes_are_the_real_ones(folder: Path) -> None:
    (folder / "config.json").unlink()
    tokenizer = folder / "google" / "umt5-xxl"
    with pytest.raises(CheckpointError, match="tokenizer"):
        folder_config(folder)
    tokenizer.mkdir(parents=True)
    (tokenizer / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    assert folder_config(folder) == ABOT_5B


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / TEXT).unlink()
    with pytest.raises(CheckpointError, match=TEXT):
        worldplay_env.load(folder, device="cpu")


def test_sizes_come_back_from_their_file(tmp_path: Path) -> None:
    for sizes in (ABOT_5B, ABOT_SMALL):
        write_config(sizes, tmp_path)
        assert read_config(tmp_path) == sizes


def test_the_repository_has_every_file_that_is_read() -> None:
    paths = {file.path for file in ABOT.files}
    files = {TRANSFORMER, AUTOENCODER, TEXT, SMALL_DECODER}
    assert files <= paths
    assert ABOT.name == "acvlab/ABot-World-0-5B-LF"


def test_the_frame_size_is_an_option() -> None:
    world = worldplay_env.load("abot-small", weights="random", device="cpu", image_size=(96, 64))
    assert world.image_size == (96, 64)
    assert world.latent_shape == (6, 3, 6, 4)
    with pytest.raises(ValueError, match="image_size must be height and width, multiples of"):
        worldplay_env.load("abot-small", weights="random", device="cpu", image_size=(50, 64))


def test_a_world_is_pickled_by_its_arguments() -> None:
    world = worldplay_env.load("abot-small", weights="random", device="cpu")
    assert pickle.loads(pickle.dumps(world)) is world
