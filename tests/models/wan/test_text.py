from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldplay_env.models.config import TINY, TextConfig
from worldplay_env.models.wan.text import MAX_PROMPT, TextEncoder, byte_tokenizer, clean_prompt, embed, text_model
from worldplay_env.weights.checkpoint import RandomWeights, load_text_model

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "image_and_text.json").read_text())
CONFIG = TextConfig(
    text_len=12, vocab_size=384, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=2, bytes_tokenizer=True
)


def theirs_of(config: TextConfig, model: torch.nn.Module) -> torch.nn.Module:
    """Return transformers' encoder with the parameters of one of ours."""
    from transformers import UMT5Config, UMT5EncoderModel

    sizes = {
        name: getattr(config, name) for name in ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")
    }
    theirs = UMT5EncoderModel(UMT5Config(**sizes, dropout_rate=0.0)).eval()
    theirs.load_state_dict(model.state_dict())
    return theirs


class CountedEncoder:
    """A small text encoder that counts how often its parts are loaded and run."""

    def __init__(self, cache_size: int = 64) -> None:
        self.loads = 0
        self.runs = 0
        self._generator = torch.Generator().manual_seed(0)
        with torch.device("meta"):
            model = text_model(CONFIG)
        self._model = model.to_empty(device="cpu").eval()
        with torch.no_grad():
            for parameter in self._model.parameters():
                parameter.normal_(0, 0.3, generator=self._generator)
        self._model.register_forward_hook(self._count)
        self.encoder = TextEncoder(self._load, lambda: byte_tokenizer, CONFIG.text_len, cache_size)

    def _load(self) -> torch.nn.Module:
        self.loads += 1
        return self._model

    def _count(self, *_: object) -> None:
        self.runs += 1


@pytest.fixture
def counted() -> CountedEncoder:
    return CountedEncoder()


@pytest.mark.parametrize(("prompt", "cleaned"), GOLDEN["prompt_clean"])
def test_prompts_are_cleaned_as_recorded(prompt: str, cleaned: str) -> None:
    assert clean_prompt(prompt) == cleaned


@settings(deadline=None, max_examples=50)
@given(st.text())
def test_a_cleaned_prompt_has_single_inner_blanks_only(prompt: str) -> None:
    cleaned = clean_prompt(prompt)
    assert cleaned == " ".join(cleaned.split())


def test_escapes_are_undone_twice_however_deep_they_are() -> None:
    assert clean_prompt("&amp;lt;") == "<"
    assert clean_prompt("&" + 4 * "amp;" + "lt;") == "&amp;amp;lt;"


def test_the_length_of_a_prompt_is_bounded() -> None:
    assert len(clean_prompt("a" * MAX_PROMPT)) == MAX_PROMPT
    with pytest.raises(ValueError, match="at most 20,000 characters, got 20,001"):
        clean_prompt("a" * (MAX_PROMPT + 1))


@pytest.mark.parametrize("prompt", [None, 3, b"bytes", ["a", "list"]])
def test_a_prompt_that_is_no_string_is_a_type_error_and_nothing_is_encoded(
    counted: CountedEncoder, prompt: object
) -> None:
    with pytest.raises(TypeError, match="must be a string"):
        clean_prompt(prompt)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be a string"):
        counted.encoder.encode(["a good one", prompt])  # type: ignore[list-item]
    assert counted.runs == counted.loads == 0


def test_one_string_is_not_taken_for_a_list_of_letters(counted: CountedEncoder) -> None:
    with pytest.raises(TypeError, match="list of prompts"):
        counted.encoder.encode("a prompt")


@pytest.mark.parametrize("prompts", [["abc", ""], ["a long prompt that is cut"], ["caf\u00e9", "abc", "abc"]])
def test_encoding_agrees_with_transformers_padding_and_masking(counted: CountedEncoder, prompts: list[str]) -> None:
    from transformers import ByT5Tokenizer

    tokens = ByT5Tokenizer()(
        prompts, padding="max_length", max_length=CONFIG.text_len, truncation=True, return_tensors="pt"
    )
    theirs = theirs_of(CONFIG, counted.encoder.model)
    with torch.no_grad():
        expected = theirs(**tokens).last_hidden_state * tokens["attention_mask"][..., None]
    torch.testing.assert_close(counted.encoder.encode(prompts), expected, atol=1e-5, rtol=1e-5)


def test_rows_past_the_true_length_are_exactly_zero(counted: CountedEncoder) -> None:
    embedding = counted.encoder.encode(["abc"])
    length = counted.encoder.token_count("abc")
    assert embedding.shape == (1, CONFIG.text_len, CONFIG.d_model)
    assert length == 4  # three bytes and the end mark
    assert embedding[:, length:].eq(0).all()
    assert embedding[:, :length].ne(0).all()


def test_a_long_prompt_is_cut_to_its_beginning_and_the_end_mark(counted: CountedEncoder) -> None:
    long, cut = "abcdefghijklmnop", "abcdefghijk"
    assert counted.encoder.token_count(long) == len(long) + 1
    assert torch.equal(counted.encoder.encode([long]), counted.encoder.encode([cut]))


def test_a_known_prompt_costs_nothing_however_it_is_spelled(counted: CountedEncoder) -> None:
    first = counted.encoder.encode(["a  path", "b"])
    assert counted.runs == 2
    assert torch.equal(counted.encoder.encode([" a path ", "b"]), first)
    assert counted.runs == 2


def test_the_least_recently_used_prompt_is_forgotten_first() -> None:
    counted = CountedEncoder(cache_size=2)
    for prompt in ("a", "b", "a", "c"):
        counted.encoder.encode([prompt])
    assert counted.runs == 3
    counted.encoder.encode(["a"])
    assert counted.runs == 3
    counted.encoder.encode(["b"])
    assert counted.runs == 4


def test_more_prompts_than_the_cache_holds_can_be_encoded_at_once() -> None:
    counted = CountedEncoder(cache_size=2)
    prompts = ["a", "b", "c", "d"]
    together = counted.encoder.encode(prompts)
    assert torch.equal(together, torch.cat([counted.encoder.encode([prompt]) for prompt in prompts]))


def test_an_embedding_does_not_depend_on_who_shares_the_call(counted: CountedEncoder) -> None:
    together = counted.encoder.encode(["abc", "something longer"])
    assert torch.equal(CountedEncoder().encoder.encode(["abc"])[0], together[0])


def test_what_encode_returns_may_be_written_without_harm(counted: CountedEncoder) -> None:
    first = counted.encoder.encode(["abcdefghijk"])  # as long as text_len: nothing to pad
    kept = first.clone()
    first.zero_()
    assert torch.equal(counted.encoder.encode(["abcdefghijk"]), kept)


def test_a_released_encoder_serves_known_prompts_and_is_loaded_again_for_new_ones(counted: CountedEncoder) -> None:
    known = counted.encoder.encode(["abc"])
    counted.encoder.release()
    assert torch.equal(counted.encoder.encode(["abc"]), known)
    assert counted.loads == 1
    counted.encoder.encode(["new"])
    assert counted.loads == 2


def test_the_training_path_gives_what_encode_gives_and_a_gradient(counted: CountedEncoder) -> None:
    prompts = ["abc", "longer"]
    input_ids, mask = counted.encoder.tokenize(prompts)
    trained = embed(counted.encoder.model, input_ids, mask)
    torch.testing.assert_close(
        trained, counted.encoder.encode(prompts)[:, : input_ids.shape[1]], atol=1e-5, rtol=1e-5
    )
    trained.square().sum().backward()
    assert all(parameter.grad is not None for parameter in counted.encoder.model.parameters())
    assert not counted.encoder.encode(prompts).requires_grad


def test_an_embedding_can_be_the_input_of_a_layer_in_training(counted: CountedEncoder) -> None:
    layer = torch.nn.Linear(CONFIG.d_model, 1)
    layer(counted.encoder.encode(["abc"])).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths", [(1,), (2, 7), (160, 33), (300,)])
def test_the_encoder_equals_transformers_own_of_the_same_parameters(
    dtype: torch.dtype, lengths: tuple[int, ...]
) -> None:
    ours = load_text_model(RandomWeights(2), TINY.text, dtype=dtype)
    theirs = theirs_of(TINY.text, ours.float() if dtype == torch.float32 else ours).to(dtype)
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    tokens = torch.randint(0, 384, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    with torch.no_grad():
        found = ours(tokens, mask)
        expected = theirs(input_ids=tokens, attention_mask=mask).last_hidden_state
    found_rows, expected_rows = found[mask.bool()].float(), expected[mask.bool()].float()
    assert found.dtype == dtype
    # transformers' own attention has changed between versions in what it rounds.
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    assert (found_rows - expected_rows).norm() <= tolerance * expected_rows.norm()


@given(st.text(st.characters(exclude_characters="<>", exclude_categories=["Cs"]), max_size=20), st.integers(1, 12))
@settings(deadline=None)
def test_bytes_are_tokenized_as_byt5_does(prompt: str, length: int) -> None:
    theirs = byt5()
    assert byte_tokenizer(prompt)["input_ids"] == theirs(prompt)["input_ids"]
    cut = byte_tokenizer(prompt, truncation=True, max_length=length)["input_ids"]
    assert cut == theirs(prompt, truncation=True, max_length=length)["input_ids"]


def test_nothing_in_a_prompt_ends_it() -> None:
    assert byte_tokenizer("a</s>b")["input_ids"] == [byte + 3 for byte in b"a</s>b"] + [1]


@functools.cache
def byt5() -> Any:
    from transformers import ByT5Tokenizer

    return ByT5Tokenizer()


def test_making_and_using_the_embedded_world_s_encoder_leaves_transformers_alone() -> None:
    program = (
        "import sys; sys.modules['transformers'] = None; import worldplay_env as w;"
        "world = w.load('tiny', device='cpu'); rollout = world.start(w.Start(None, 'a room'), 0); print('made')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "made", done.stderr
