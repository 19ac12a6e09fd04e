"""Pictures to the pixels that the autoencoder encodes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def pixels_of(picture: np.ndarray, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return pixels [1, 3, height, width] in -1..1 of a picture uint8 [height, width, 3], each operation rounded."""
    values = torch.from_numpy(picture).permute(2, 0, 1)[None].to(dtype)
    return values * (2 / 255) - 1
