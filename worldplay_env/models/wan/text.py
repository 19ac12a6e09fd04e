"""From a prompt to its embedding: cleaning, tokens, the UMT5 encoder, and a memory of recent embeddings.

Spec section 4. Where the encoder's parameters and its tokenizer come from is not known here: `TextEncoder` is given
two functions that make them.
"""

from __future__ import annotations

import html
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import ftfy
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldplay_env.models.config import TextConfig
from worldplay_env.models.wan.umt5 import Umt5Encoder

Tokenizer = Callable[..., Mapping[str, list[int]]]
"""Called with a string, it returns a mapping with "input_ids": `byte_tokenizer`, or a tokenizer of transformers."""


MAX_PROMPT = 20_000
"""Characters of a prompt at most: many times what the encoder reads."""


def clean_prompt(prompt: str) -> str:
    """Repair the encoding of a prompt, undo HTML escapes (twice), and make every run of whitespace one space.

    Raises:
        TypeError: The prompt is not a string.
        ValueError: It has more than `MAX_PROMPT` characters.
    """
    if not isinstance(prompt, str):
        raise TypeError(f"a prompt must be a string, got {type(prompt).__name__}: {prompt!r}")
    if len(prompt) > MAX_PROMPT:
        raise ValueError(f"a prompt has at most {MAX_PROMPT:,} characters, got {len(prompt):,}")
    # ftfy would undo escapes as often as there are any, each time in a pass over the text.
    unescaped = html.unescape(html.unescape(ftfy.fix_text(prompt, unescape_html=False)))
    return re.sub(r"\s+", " ", unescaped).strip()


def text_model(config: TextConfig) -> nn.Module:
    """Make the UMT5 encoder of these sizes, with parameters of no meaning; build it on the meta device to fill it."""
    return Umt5Encoder(config)


def byte_tokenizer(
    prompt: str, truncation: bool = False, max_length: int | None = None, verbose: bool = True
) -> dict[str, list[int]]:
    """Return `{"input_ids": ...}` of a prompt: its UTF-8 bytes plus 3, and the end mark 1, as ByT5 has them.

    Args:
        prompt: Nothing in it has a special meaning.
        truncation: Whether the ids are cut to `max_length`, end mark included.
        max_length: As many ids at most.
        verbose: Of no effect; the tokenizers of transformers take it.
    """
    ids = [byte + 3 for byte in prompt.encode()]
    if truncation and max_length is not None:
        ids = ids[: max_length - 1]
    return {"input_ids": [*ids, 1]}


def embed(model: nn.Module, input_ids: Tensor, mask: Tensor) -> Tensor:
    """Return the embeddings of token ids, with gradient; rows where the mask is zero are exactly zero.

    Args:
        model: What `text_model` makes.
        input_ids: int64 [batch, tokens].
        mask: int64 [batch, tokens], 1 for a token and 0 for padding.

    Returns:
        [batch, tokens, d_model] in the model's dtype.
    """
    hidden = model(input_ids, mask)
    return hidden.masked_fill(mask[..., None] == 0, 0)


class TextEncoder:
    """Prompts to embeddings; a prompt that was encoded recently costs nothing.

    A prompt longer than `text_len` tokens is cut: its first `text_len` - 1 tokens and the end mark remain
    (`token_count` tells beforehand). Every prompt is encoded by itself, so that its embedding does not depend on the
    others of a call. Safe to call from several threads.

    Args:
        load_model: Makes the encoder, filled and on its device; called when first needed, and again after `release`.
        load_tokenizer: Makes the tokenizer; called when first needed.
        text_len: Tokens that an embedding is cut or zero-padded to.
        cache_size: Embeddings that are kept; the least recently used goes first.
    """

    def __init__(
        self,
        load_model: Callable[[], nn.Module],
        load_tokenizer: Callable[[], Tokenizer],
        text_len: int,
        cache_size: int = 64,
    ) -> None:
        self.text_len = text_len
        self._load_model = load_model
        self._load_tokenizer = load_tokenizer
        self._cache_size = cache_size
        self._rows: OrderedDict[str, Tensor] = OrderedDict()  # cleaned prompt -> [true length, d_model]
        self._model: nn.Module | None = None
        self._lock = threading.RLock()

    @property
    def model(self) -> nn.Module:
        """The encoder itself, loaded if it is not in memory; to train it, use `tokenize` and `embed`."""
        with self._lock:
            if self._model is None:
                self._model = self._load_model()
            return self._model

    @property
    def loaded(self) -> bool:
        """Whether the encoder is in memory."""
        return self._model is not None

    def release(self) -> None:
        """Give back the encoder's memory; known prompts stay known, and a new one loads the encoder again."""
        with self._lock:
            self._model = None

    def token_count(self, prompt: str) -> int:
        """Return how many tokens a prompt has, end mark included, before it is cut to `text_len`."""
        # verbose=False: no log line about the length, since knowing it is what this is for.
        return len(self._tokenizer(clean_prompt(prompt), verbose=False)["input_ids"])

    def tokenize(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return the token ids of prompts and their mask: int64 [batch, tokens of the longest] each, on the CPU."""
        tokens = [self._tokens(clean_prompt(prompt)) for prompt in _checked(prompts)]
        mask = [torch.ones_like(ids) for ids in tokens]
        pad_sequence = torch.nn.utils.rnn.pad_sequence
        return pad_sequence(tokens, batch_first=True), pad_sequence(mask, batch_first=True)

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Return the embeddings of prompts: [batch, text_len, d_model] in the encoder's dtype and on its device.

        Rows past a prompt's true length are exactly zero. The result is new memory and carries no gradient.

        Raises:
            TypeError: A prompt is not a string; nothing has been encoded.
        """
        cleaned = [clean_prompt(prompt) for prompt in _checked(prompts)]
        with self._lock:
            rows = [self._embedding(prompt) for prompt in cleaned]
        return torch.stack([F.pad(row, (0, 0, 0, self.text_len - len(row))) for row in rows])

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return self._load_tokenizer()

    def _tokens(self, prompt: str) -> Tensor:
        ids = self._tokenizer(prompt, truncation=True, max_length=self.text_len)["input_ids"]
        return torch.tensor(ids, dtype=torch.int64)

    # Not inference_mode: what comes out is the input of a transformer that may be in training.
    @torch.no_grad()
    def _embedding(self, prompt: str) -> Tensor:
        """Return the rows of one cleaned prompt: [true length, d_model]."""
        if prompt not in self._rows:
            device = next(self.model.parameters()).device
            ids = self._tokens(prompt).to(device)[None]
            self._rows[prompt] = embed(self.model, ids, torch.ones_like(ids))[0]
        self._rows.move_to_end(prompt)
        rows = self._rows[prompt]
        while len(self._rows) > self._cache_size:
            self._rows.popitem(last=False)
        return rows


def _checked(prompts: Sequence[str]) -> Sequence[str]:
    if isinstance(prompts, str):
        raise TypeError(f"expected a list of prompts, got one string: {prompts!r}")
    return prompts
