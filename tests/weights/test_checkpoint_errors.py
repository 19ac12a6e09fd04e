"""Weights that do not fit or cannot be read: errors name the tensor and the file."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from weight_forms import (
    CONFIG,
    GOLDEN,
    as_distilled,
    as_file,
    as_mapping,
    as_shards,
)

from worldplay_env.models.config import TINY
from worldplay_env.weights.checkpoint import (
    CheckpointError,
    load_transformer,
)

WEIGHTS = GOLDEN / "transformer_weights.safetensors"


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return load_file(WEIGHTS)


def without(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name}


def with_tensor(name: str, tensor: Tensor) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: tensors | {name: tensor}


TENSOR_FAULTS = {
    "missing": (without("blocks.1.ffn.net.2.bias"), r"1 missing: blocks\.1\.ffn\.net\.2\.bias \[72\]"),
    "unexpected": (with_tensor("extra.weight", torch.zeros(2, 3)), r"1 unexpected: extra\.weight \[2, 3\]"),
    "our own name": (with_tensor("time_embedder.linear_1.bias", torch.zeros(72)), r"1 unexpected: time_embedder"),
    "misshapen": (
        with_tensor("proj_out.bias", torch.zeros(5)),
        r"1 of another shape: proj_out\.bias \(expected \[32\], found \[5\]",
    ),
    "not floating": (with_tensor("proj_out.bias", torch.zeros(32, dtype=torch.int8)), r"found torch\.int8"),
    "twice": (with_tensor("model.proj_out.bias", torch.zeros(32)), r"'proj_out\.bias' is there twice"),
}


@pytest.mark.parametrize("fault", TENSOR_FAULTS)
@pytest.mark.parametrize("form", [as_file, as_shards, as_distilled, as_mapping])
def test_tensors_that_do_not_fit_are_named_with_their_file(
    form: Callable[[Path, dict[str, Tensor]], Any], fault: str, tmp_path: Path, tensors: dict[str, Tensor]
) -> None:
    change, message = TENSOR_FAULTS[fault]
    source = form(tmp_path, change(tensors))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_transformer(source, CONFIG)
    assert form is as_mapping or str(tmp_path) in str(caught.value)


def test_the_sizes_of_another_model_are_told_in_a_short_message() -> None:
    with pytest.raises(CheckpointError, match="sizes that differ from its configuration") as caught:
        load_transformer(WEIGHTS, TINY.transformer)
    assert len(str(caught.value)) < 3000


def cut_off(path: Path, share: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    return path


class RunsCode:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("a pickle ran code",)


def two_kinds(folder: Path, tensors: dict[str, Tensor]) -> Any:
    save_file(tensors, folder / "a.safetensors")
    save_file(tensors, folder / "b.safetensors")
    return folder


def shard_missing(folder: Path, tensors: dict[str, Tensor]) -> Any:
    index = as_shards(folder, tensors)
    (folder / "model-2.safetensors").unlink()
    return index


def index_text(text: str) -> Callable[[Path, dict[str, Tensor]], Any]:
    def write(folder: Path, tensors: dict[str, Tensor]) -> Any:
        path = folder / "model.safetensors.index.json"
        path.write_text(text)
        return path

    return write


def pickled(content: Any) -> Callable[[Path, dict[str, Tensor]], Any]:
    def write(folder: Path, tensors: dict[str, Tensor]) -> Any:
        torch.save(content, folder / "model.pt")
        return folder / "model.pt"

    return write


def plain_pickle(folder: Path, tensors: dict[str, Tensor]) -> Any:
    (folder / "model.pt").write_bytes(pickle.dumps({"generator": RunsCode()}))
    return folder / "model.pt"


FILE_FAULTS: dict[str, tuple[Callable[[Path, dict[str, Tensor]], Any], str]] = {
    "cut off": (lambda folder, tensors: cut_off(as_file(folder, tensors), 0.9), "weights.safetensors: damaged"),
    "cut in the header": (lambda folder, tensors: cut_off(as_file(folder, tensors), 0.001), "weights.saf.*: damaged"),
    "empty": (lambda folder, tensors: cut_off(as_file(folder, tensors), 0), "weights.safetensors: damaged"),
    "pickle cut off": (lambda folder, tensors: cut_off(as_distilled(folder, tensors), 0.9), "model.pt: damaged"),
    "pickle empty": (lambda folder, tensors: cut_off(as_distilled(folder, tensors), 0), "model.pt: damaged"),
    "pickle with code": (pickled({"generator": RunsCode()}), "model.pt: .*could run code"),
    "old pickle with code": (plain_pickle, "model.pt: .*could run code"),
    "pickle without generator": (pickled({"weights": {}}), "model.pt: .*'generator'.*found .*weights"),
    "pickle of a list": (pickled([1, 2]), "model.pt: expected tensors by name, or under one of"),
    "pickle of numbers": (pickled({"generator": {"proj_out.bias": 3}}), "model.pt: .*'proj_out.bias': int"),
    "no file": (lambda folder, tensors: folder / "absent.safetensors", "absent.safetensors: no such file"),
    "other kind of file": (lambda folder, tensors: Path(__file__), "expected a .safetensors, .pt or .pth file"),
    "empty folder": (lambda folder, tensors: folder, "no weights there"),
    "two files in a folder": (two_kinds, "name one: a.safetensors, b.safetensors"),
    "missing shard": (shard_missing, "lists files that are not there: model-2.safetensors"),
    "index that is no JSON": (index_text("{"), "index.json: not readable as JSON"),
    "index without map": (index_text("{}"), "index.json: expected a `weight_map`"),
    "index leading elsewhere": (index_text('{"weight_map": {"a": "../a.safetensors"}}'), "expected a `weight_map`"),
}


@pytest.mark.parametrize("fault", FILE_FAULTS)
def test_files_that_cannot_be_read_are_named(
    fault: str, tmp_path: Path, tensors: dict[str, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    make, message = FILE_FAULTS[fault]
    with pytest.raises(CheckpointError, match=message):
        load_transformer(make(tmp_path, tensors), CONFIG)
    assert "ran code" not in capsys.readouterr().out
