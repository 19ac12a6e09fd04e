"""PRoPE has the properties that give it its meaning."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from worldplay_env.control.camera import Motion, integrate, rebase, view_matrices
from worldplay_env.models.worldplay import positional
from worldplay_env.models.worldplay.positional import Positions

INTRINSICS = torch.tensor([[0.5, 0.0, 0.5], [0.0, 0.9, 0.5], [0.0, 0.0, 1.0]])


def _positions(poses: np.ndarray) -> Positions:
    viewmats = torch.from_numpy(view_matrices(poses))
    K = INTRINSICS.expand(len(poses), 3, 3)
    return Positions(torch.empty(0), torch.empty(0), *positional.projections(viewmats, K))


def _attend(poses: np.ndarray, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    positions = _positions(poses)
    q, k, v = (
        positional.prope_queries(q, positions),
        positional.prope_keys_values(k, positions),
        positional.prope_keys_values(v, positions),
    )
    weights = torch.einsum("fnhd,gmhd->hfngm", q, k).div(q.shape[-1] ** 0.5).flatten(-2).softmax(-1)
    out = torch.einsum("hfns,shd->fnhd", weights, v.flatten(0, 1))
    return positional.prope_outputs(out, positions)


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(-1.5, 1.5))
def test_prope_attention_depends_on_relative_cameras_alone(forward: float, right: float, yaw: float) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 3, 2, 2, 8, generator=generator)  # three frames of two tokens
    poses = integrate(np.eye(4), [Motion(forward=0.2, yaw=0.3), Motion(right=-0.1, pitch=0.2)])
    moved = rebase(poses, integrate(np.eye(4), [Motion(forward, right, yaw, 0.1)])[-1])
    assert torch.allclose(_attend(poses, q, k, v), _attend(moved, q, k, v), atol=1e-4)


def test_prope_attention_changes_with_a_relative_camera() -> None:
    q, k, v = torch.randn(3, 2, 1, 2, 8, generator=torch.Generator().manual_seed(0))
    still, moved = (integrate(np.eye(4), [Motion(forward=step)]) for step in (0.0, 0.08))
    assert not torch.allclose(_attend(still, q, k, v), _attend(moved, q, k, v), atol=1e-2)


def test_projection_and_inverse_undo_each_other_for_cameras_that_are_not_rigid() -> None:
    viewmats = torch.eye(4)[None, None] * torch.tensor([1.0, 2.0, 0.5, 1.0])
    projection, inverse = positional.projections(viewmats, INTRINSICS.expand(1, 1, 3, 3))
    assert torch.allclose(projection @ inverse, torch.eye(4), atol=1e-6)


def test_the_inverse_of_a_rigid_motion_is_the_inverse() -> None:
    poses = integrate(np.eye(4), [Motion(forward=0.2, yaw=0.3), Motion(right=-0.1, pitch=0.2)])
    viewmats = torch.from_numpy(view_matrices(poses))
    K = INTRINSICS.expand(len(poses), 3, 3)
    rigid, general = (positional.projections(viewmats, K, rigid=rigid) for rigid in (True, False))
    torch.testing.assert_close(rigid, general)
