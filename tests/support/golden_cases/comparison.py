"""How far a result is from the recorded one, in the terms of the recorded tolerance."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Tolerance = float | str | dict[str, Any]
"""As the JSON files state it: a number, {"atol", "rtol"}, {"max_abs"}, {"rel_l2"}, "exact", "1 level", ..."""


@dataclass(frozen=True)
class Row:
    """One comparison: what was compared, how far apart, and how far it may be.

    Attributes:
        name: "case/item".
        error: The worst deviation; None if the item is left out by a rule that `note` names.
        tolerance: The largest error that passes.
        note: How it was measured, if not as a largest absolute difference; or what went wrong.
    """

    name: str
    error: float | None
    tolerance: float = 0.0
    note: str = ""

    @property
    def skipped(self) -> bool:
        """Whether a rule leaves the item out."""
        return self.error is None

    @property
    def passed(self) -> bool:
        """Whether the item is as close as it must be; false for an error that is not a number."""
        return self.error is None or self.error <= self.tolerance

    @property
    def share(self) -> float:
        """The error as a share of the tolerance; infinite if it fails against zero or is no number."""
        if not self.passed and (not self.tolerance or math.isnan(self.error or 0.0)):
            return math.inf
        return (self.error or 0.0) / (self.tolerance or 1.0)

    @property
    def figures(self) -> str:
        """`error / tolerance`, and how it was measured."""
        note = f" ({self.note})" if self.note else ""
        return f"{self.error:.2g} / {self.tolerance:g}{note}{'' if self.passed else '  FAILED'}"

    def __str__(self) -> str:
        return f"{self.name}: skipped ({self.note})" if self.skipped else f"{self.name}: {self.figures}"


def skipped(name: str, rule: str) -> Row:
    """Return the row of an item that a rule leaves out."""
    return Row(name, None, note=rule)


def holds(name: str, condition: bool, what: str = "") -> Row:
    """Return the row of something that is true or false; `what` tells of the failure."""
    return Row(name, 0.0 if condition else 1.0, note="exact" if condition else what)


def compare(name: str, result: Any, recorded: Any, tolerance: Tolerance) -> Row:
    """Measure how far a tensor, array or nested list is from the recorded one.

    With both an absolute and a relative part, the error is what the absolute difference would count without the
    relative one: atol * |a - b| / (atol + rtol |b|), so that error / tolerance is the same share as in `allclose`.
    """
    a, b = _float64(result), _float64(recorded)
    if a.shape != b.shape:
        return Row(name, math.inf, 0.0, f"shape {tuple(a.shape)} instead of {tuple(b.shape)}")
    difference = (a - b).abs()
    match tolerance:
        case {"rel_l2": limit}:
            error = difference.norm() / b.norm().clamp(min=1e-300)
            return Row(name, float(error), limit, "relative L2")
        case {"max_abs": limit} | (int() | float() as limit):
            return Row(name, _largest(difference), float(limit))
        case {"atol": atol, "rtol": rtol} if atol > 0:
            return Row(name, _largest(atol * difference / (atol + rtol * b.abs())), atol)
        case {"rtol": rtol}:
            return Row(name, _largest(difference / b.abs().clamp(min=1e-300)), rtol, "relative")
        case {"atol": atol}:
            return Row(name, _largest(difference), atol)
        case str() if "bfloat16 unit" in tolerance:
            return Row(name, _largest(difference / _bfloat16_unit(a, b)), 1.0, "bfloat16 units")
        case str() if match_ := re.fullmatch(r"(\d+) levels?", tolerance):
            return Row(name, _largest(difference), float(match_[1]), "levels of 255")
        case str() if tolerance.startswith("exact"):
            return Row(name, _largest(difference), 0.0, "exact")
    raise ValueError(f"{name}: cannot read the tolerance {tolerance!r}")


def _largest(errors: Tensor) -> float:
    """The largest entry; nan if any is nan, 0 if there is none."""
    return float(errors.max()) if errors.numel() else 0.0


def _float64(values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach().cpu().to(torch.float64)
    return torch.as_tensor(np.asarray(values, dtype=np.float64))


def _bfloat16_unit(a: Tensor, b: Tensor) -> Tensor:
    """The step between neighbouring bfloat16 numbers (8 significant bits) of the larger one's size."""
    _, exponent = torch.frexp(torch.maximum(a.abs(), b.abs()))
    return torch.ldexp(torch.ones_like(a), exponent - 8)
