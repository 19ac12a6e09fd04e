"""`python -m worldplay_env.weights`: a ready file of any known layout, and what a world needs fetched beforehand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from weight_folders import SMALL, load_all, text_tensors, transformer_tensors, write_compact

import worldplay_env
from worldplay_env.weights.__main__ import main
from worldplay_env.weights.checkpoint import RandomWeights, load_autoencoder
from worldplay_env.weights.convert import convert
from worldplay_env.weights.hub import LICENSE_NOTICE, resolve

PREFIX = "model.diffusion_model."


@pytest.fixture
def world(tmp_path: Path) -> Path:
    (tmp_path / "world").mkdir()
    return write_compact(tmp_path / "world")


def in_comfy_fp8(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Matrices in 8 bits with scales of a power of two, so that what they stand for is exact in bfloat16."""
    saved = {}
    for name, tensor in tensors.items():
        if tensor.dim() == 2:
            saved[PREFIX + name] = (tensor * 4).to(torch.float8_e4m3fn)
            saved[PREFIX + name.removesuffix(".weight") + ".scale_weight"] = torch.tensor(0.25)
        else:
            saved[PREFIX + name] = tensor
    return saved | {PREFIX + "scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}


def test_a_converted_file_is_loaded_as_it_is_and_makes_the_same_world(
    tmp_path: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "comfy.safetensors", world / "transformer.safetensors"
    save_file(in_comfy_fp8(transformer_tensors(SMALL)), source)
    assert main(["convert", str(source), str(out), "--world", str(world)]) == 0
    printed = capsys.readouterr().out
    layout = "diffusers' names, ComfyUI's prefix, numbers of 8 bits with scales"
    assert f"the transformer of {world}, taken for: {layout}" in printed
    converted = load_file(out)
    assert converted.keys() == transformer_tensors(SMALL).keys()
    for name, tensor in transformer_tensors(SMALL).items():
        meant = (tensor * 4).to(torch.float8_e4m3fn).float() * 0.25 if tensor.dim() == 2 else tensor
        assert converted[name].dtype == (torch.bfloat16 if tensor.dim() == 2 else torch.float32)
        assert torch.equal(converted[name].float(), meant)
    there = worldplay_env.load(world)
    save_file(in_comfy_fp8(transformer_tensors(SMALL)), out)
    as_they_were = worldplay_env.load(world)
    assert as_they_were is not there
    for ours, theirs in zip(there.transformer.parameters(), as_they_were.transformer.parameters(), strict=True):  # type: ignore[attr-defined]
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_network_is_converted_to_the_dtype_asked_for(tmp_path: Path, world: Path, dtype: str) -> None:
    networks = {
        "transformer": transformer_tensors(SMALL),
        "autoencoder": load_autoencoder(RandomWeights(0), SMALL.autoencoder).state_dict(),
        "text encoder": text_tensors(),
    }
    for network, tensors in networks.items():
        torch.save({"state_dict": tensors}, tmp_path / "model.pth")
        done = convert(tmp_path / "model.pth", tmp_path / "out.safetensors", str(world), getattr(torch, dtype))
        assert (done.network, done.tensors) == (network, len(tensors))
        found = load_file(tmp_path / "out.safetensors")
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name], tensors[name].to(getattr(torch, dtype))) for name in tensors)
        (tmp_path / "out.safetensors").rename(world / f"{network.replace(' ', '_')}.safetensors")
    load_all(resolve(world))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out.pt"], "must end in .safetensors, got"),
        (
            ["out.safetensors", "--world", "atlantis"],
            "unknown world 'atlantis': known are tiny, wan-5b, abot-5b, or a folder",
        ),
        (["out.safetensors"], "not the tensors of this Transformer"),  # those of wan-5b are others
    ],
)
def test_what_cannot_be_converted_leaves_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (tmp_path / "in").mkdir()
    save_file(transformer_tensors(SMALL), tmp_path / "in" / "small.safetensors")
    (tmp_path / "out").mkdir()
    out, *options = arguments
    assert main(["convert", str(tmp_path / "in"), str(tmp_path / "out" / out), *options]) == 2
    assert message in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_what_is_missing_is_an_error_of_conversion_too(
    tmp_path: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = transformer_tensors(SMALL)
    del tensors["proj_out.bias"]
    save_file(tensors, tmp_path / "in.safetensors")
    files = [str(tmp_path / name) for name in ("in.safetensors", "out.safetensors")]
    assert main(["convert", *files, "--world", str(world)]) == 2
    assert "1 missing: proj_out.bias" in capsys.readouterr().err


def test_fetch_says_where_the_files_are_or_what_the_licence_is(
    world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert main(["fetch", str(world)]) == 0
    assert f"transformer   {world / 'transformer.safetensors'}" in capsys.readouterr().out
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    assert main(["fetch"]) == 2
    assert LICENSE_NOTICE in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["convert"], ["fetch"]])
def test_help_names_the_program(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("usage: python -m worldplay_env.weights")
