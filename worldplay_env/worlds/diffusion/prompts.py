"""Prompts: their embeddings, and the keys and values that the blocks make of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worldplay_env.models.wan.attention import KeysValues
from worldplay_env.models.wan.backbone import Backbone

KNOWN_PROMPTS = 16
"""Prompts whose keys and values are kept at least (of the 5B models, 0.2 GB each)."""
KNOWN_PROMPTS_BYTES = 1 << 28
"""What all of them may take where that is room for more prompts (of tiny, some 500 in float32)."""


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """A prompt and its embedding, float [text tokens, text_dim]; forks share it."""

    text: str
    embedding: Tensor


class PromptCache:
    """Every block's keys and values of the newest prompts.

    Args:
        transformer: Whose blocks.
    """

    def __init__(self, transformer: Backbone) -> None:
        self._transformer = transformer
        self._known: OrderedDict[EncodedPrompt, list[KeysValues]] = OrderedDict()

    def clear(self) -> None:
        """Give all of them back."""
        self._known.clear()

    def of(self, prompts: Sequence[EncodedPrompt]) -> list[KeysValues]:
        """Return every block's keys and values, [b, heads, text tokens, head_dim], computed once a prompt."""
        for prompt in dict.fromkeys(prompts):
            if prompt not in self._known:
                self._known[prompt] = self._transformer.text_keys_values(prompt.embedding[None])
            self._known.move_to_end(prompt)
        known = [self._known[prompt] for prompt in prompts]
        each = sum(k.nbytes + v.nbytes for k, v in known[0])
        while len(self._known) > max(KNOWN_PROMPTS, KNOWN_PROMPTS_BYTES // each):
            self._known.popitem(last=False)
        if len(set(prompts)) == 1:
            return [(k.expand(len(prompts), -1, -1, -1), v.expand(len(prompts), -1, -1, -1)) for k, v in known[0]]
        return [
            (torch.cat([k for k, _ in block]), torch.cat([v for _, v in block])) for block in zip(*known, strict=True)
        ]
