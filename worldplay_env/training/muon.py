"""The optimiser of every stage: Muon for the matrices and kernels inside, AdamW for everything else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

WEIGHT_DECAY = 0.01
MOMENTUM = 0.95
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class Optimiser:
    """Muon (Jordan et al., 2024) for some of a module's parameters, AdamW for the others, at one learning rate.

    Muon's steps are scaled to the size of AdamW's, so that one rate suits both. A convolution's kernel counts as the
    matrix from all that one output sees to the outputs. Muon counts a missing gradient as zero, AdamW leaves that
    parameter as it is. Neither touches one that needs no gradient. Parameters of one shape are stepped together: a
    network has few shapes, and so a step is few operations for a GPU.

    `torch.optim.Muon` takes matrices alone, one at a time, at a learning rate that is a Python number: convolutions
    would be left to AdamW, and a step could not be recorded (`training.recorded`).

    Args:
        module: Whose parameters are optimised.
        inside: Tells by its name and itself whether Muon takes a parameter; one of two dimensions or more.
    """

    def __init__(self, module: nn.Module, inside: Callable[[str, nn.Parameter], bool]) -> None:
        others: list[nn.Parameter] = []
        alike: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            (alike[parameter.shape] if inside(name, parameter) else others).append(parameter)
        self._alike = list(alike.values())
        self._momenta: list[Tensor | None] = [None] * len(self._alike)
        on_gpu = next(module.parameters()).device.type == "cuda"
        self._others = torch.optim.AdamW(
            others, lr=0.0, betas=(0.9, 0.99), weight_decay=WEIGHT_DECAY, fused=True, capturable=on_gpu
        )

    @torch.no_grad()
    def step(self, learning_rate: float | Tensor) -> None:
        """Make one step along the parameters' gradients, and forget them.

        A learning rate in a tensor can change between the replays of a recorded step (`training.recorded`).
        """
        for group in self._others.param_groups:
            group["lr"] = learning_rate
        self._others.step()
        self._others.zero_grad(set_to_none=True)
        for index, parameters in enumerate(self._alike):
            gradients = torch.stack([_matrix(parameter) for parameter in parameters])  # [n, out, in]
            momentum = self._momenta[index]
            if momentum is None:
                momentum = self._momenta[index] = torch.zeros_like(gradients)
            momentum.lerp_(gradients, 1 - MOMENTUM)
            updates = orthogonal(gradients.lerp_(momentum, MOMENTUM)).to(gradients.dtype)
            updates *= -0.2 * max(updates.shape[1:]) ** 0.5 * learning_rate
            kernels = [_like(update, parameter) for update, parameter in zip(updates, parameters, strict=True)]
            values: list[Tensor] = [*parameters]
            torch._foreach_mul_(values, 1 - learning_rate * WEIGHT_DECAY)
            torch._foreach_add_(values, kernels)
            for parameter in parameters:
                parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """Return the optimiser's state by name: momenta and AdamW's moments; empty before the first step."""
        found = {f"momentum.{index}": value for index, value in enumerate(self._momenta) if value is not None}
        for index, values in self._others.state_dict()["state"].items():
            found |= {f"adamw.{index}.{name}": value for name, value in values.items()}
        return found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore a `state`, for parameters of the same names and shapes."""
        adamw: dict[int, dict[str, Tensor]] = defaultdict(dict)
        for name, value in state.items():
            kind, index, *key = name.split(".")
            if kind == "momentum":
                self._momenta[int(index)] = value.to(self._alike[int(index)][0].device, copy=True)
            else:
                adamw[int(index)][key[0]] = value
        self._others.load_state_dict({**self._others.state_dict(), "state": dict(adamw)})


def orthogonal(matrices: Tensor) -> Tensor:
    """Return the nearest matrices [n, rows, columns] with singular values near 1, in bfloat16.

    By the quintic Newton-Schulz iteration of Muon, which leaves singular values between about 0.7 and 1.2.
    """
    a, b, c = _NEWTON_SCHULZ
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def _matrix(parameter: nn.Parameter) -> Tensor:
    """Return the gradient of a matrix [out, in] or of a kernel [out, in, ...] as [out, all that it sees]."""
    gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return gradient.movedim(1, -1).flatten(1)  # channels last, as convolutions keep their kernels


def _like(update: Tensor, parameter: nn.Parameter) -> Tensor:
    """Undo `_matrix`."""
    out, channels, *taps = parameter.shape
    return update.view(out, *taps, channels).movedim(-1, 1)
