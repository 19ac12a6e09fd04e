"""The text encoder's weights and tokenizer."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from worldplay_env.models.config import TINY
from worldplay_env.weights.checkpoint import (
    CheckpointError,
    RandomWeights,
    load_text_encoder,
    load_text_model,
    load_tokenizer,
)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    "kept", [["shared.weight"], ["encoder.embed_tokens.weight"], ["shared.weight", "encoder.embed_tokens.weight"]]
)
def test_the_text_encoder_takes_its_embedding_under_either_name_and_keeps_it_shared(
    kept: list[str], tmp_path: Path
) -> None:
    original = load_text_model(RandomWeights(3), TINY.text)
    state = {name: tensor for name, tensor in original.state_dict().items() if name != "shared.weight"}
    embedding = state.pop("encoder.embed_tokens.weight")
    state |= {name: embedding.clone() for name in kept}
    save_file(state, tmp_path / "text_encoder.safetensors")
    loaded = load_text_model(tmp_path / "text_encoder.safetensors", TINY.text)
    assert_same(loaded.state_dict(), original.state_dict())
    assert loaded.shared.weight is loaded.encoder.embed_tokens.weight


def test_a_text_encoder_file_is_checked_before_any_prompt_is_encoded(tmp_path: Path) -> None:
    state = {
        name: tensor.clone() for name, tensor in load_text_model(RandomWeights(), TINY.text).state_dict().items()
    }
    del state["encoder.final_layer_norm.weight"]
    save_file(state, tmp_path / "text_encoder.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing: encoder\.final_layer_norm\.weight"):
        load_text_encoder(tmp_path, None, TINY.text)


def test_text_in_half_precision_is_encoded_in_bfloat16() -> None:
    encoder = load_text_encoder(RandomWeights(), None, TINY.text, dtype=torch.float16)
    embedding = encoder.encode(["a path"])
    assert embedding.dtype == torch.bfloat16
    assert embedding.shape == (1, TINY.text.text_len, TINY.transformer.text_dim)


def test_a_text_encoder_of_words_needs_its_tokenizer_unless_it_is_random() -> None:
    words = dataclasses.replace(TINY.text, bytes_tokenizer=False)
    with pytest.raises(CheckpointError, match="needs the folder of its tokenizer"):
        load_text_encoder(load_text_model(RandomWeights(), words).state_dict(), None, words)
    assert load_text_encoder(RandomWeights(), None, words).encode(["a path"]).isfinite().all()


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no tokenizer could be read there") as caught:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_tokenizer_is_read_from_its_folder(tmp_path: Path) -> None:
    from transformers import ByT5Tokenizer

    ByT5Tokenizer().save_pretrained(tmp_path)
    words = dataclasses.replace(TINY.text, bytes_tokenizer=False)
    by_files = load_text_encoder(RandomWeights(), tmp_path, words).encode(["a path"])
    assert torch.equal(by_files, load_text_encoder(RandomWeights(), None, TINY.text).encode(["a path"]))
