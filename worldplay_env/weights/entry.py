"""One named tensor of a checkpoint that has not been read yet, and the error of weights that cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from torch import Tensor

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
FLOATS_OF_8_BITS = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)


class CheckpointError(ValueError):
    """Weights that cannot be used: a damaged or missing file, or tensors that are not those of the module."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a source, not read yet.

    Attributes:
        place: The file that it is in, for messages.
        shape: Its shape.
        dtype: What its numbers are stored as, as the file calls it.
        get: Reads it.
        scale: Reads what its numbers are to be multiplied with: one number, or one for each row; None for nothing.
        layout: What its source was taken for, for messages.
    """

    place: str
    shape: tuple[int, ...]
    dtype: str
    get: Callable[[], Tensor]
    scale: Callable[[], Tensor] | None = None
    layout: str = ""

    @property
    def is_8_bits(self) -> bool:
        """Whether its numbers are floating point numbers of 8 bits."""
        return self.dtype.startswith(("F8_", "torch.float8"))

    def read(self, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
        """Return the tensor in memory of its own, on that device and of that dtype.

        Args:
            device: Where it is wanted.
            dtype: By default the one that it has in its source; bfloat16 for one of 8 bits, which hold no arithmetic.

        Raises:
            CheckpointError: It does not hold floating point numbers, or cannot be read.
        """
        try:
            tensor = self.get()
            scale = self.scale() if self.scale is not None else None
        except (SafetensorError, RuntimeError, OSError) as error:
            raise CheckpointError(f"{self.place}: a tensor could not be read: {error}") from error
        if tensor.dtype not in FLOATS + FLOATS_OF_8_BITS:
            raise CheckpointError(f"{self.place}: tensors must be floating point numbers, found {tensor.dtype}")
        if dtype is None:
            dtype = torch.bfloat16 if tensor.dtype in FLOATS_OF_8_BITS else tensor.dtype
        if scale is not None:
            return tensor.to(device, torch.float32).mul(self._fitted(scale).to(device)).to(dtype)
        # A tensor on the CPU is a view of the file or of the caller's memory, which may change under us.
        return tensor.to(device, dtype, copy=tensor.device.type == "cpu")

    def _fitted(self, scale: Tensor) -> Tensor:
        """Return a scale in float32, in a shape that multiplies the tensor's rows."""
        if scale.dtype not in FLOATS or scale.numel() not in (1, self.shape[0] if self.shape else 1):
            raise CheckpointError(
                f"{self.place}: a scale must be one number or one a row, as floating point numbers; found "
                f"{scale.dtype} {list(scale.shape)} for a tensor of shape {list(self.shape)}"
            )
        rows = (-1, *[1] * (len(self.shape) - 1)) if scale.numel() > 1 else ()
        return scale.float().reshape(rows)
