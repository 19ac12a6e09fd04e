"""The latents of pictures that were encoded lately."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

from torch import Tensor

PICTURES_KEPT = 256
"""Pictures whose latents a world keeps: of tiny 6 MB, of the 5B models 170 MB."""


class PictureCache:
    """Latents by their picture; the longest unused ones go first."""

    def __init__(self) -> None:
        self._known: OrderedDict[Hashable, Tensor] = OrderedDict()

    def clear(self) -> None:
        """Give all of them back."""
        self._known.clear()

    def get(self, key: Hashable, encode: Callable[[], Tensor]) -> Tensor:
        """Return a copy of a picture's latents, which are encoded if they are not known."""
        if key not in self._known:
            self._known[key] = encode()
        self._known.move_to_end(key)
        latent = self._known[key]
        while len(self._known) > PICTURES_KEPT:
            self._known.popitem(last=False)
        return latent.clone()
