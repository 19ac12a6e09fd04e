"""RoPE and PRoPE have the properties that give them their meaning."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from worldplay_env.control.camera import Motion, integrate, rebase, view_matrices
from worldplay_env.models.worldplay import positional
from worldplay_env.models.worldplay.positional import Positions

INTRINSICS = torch.tensor([[0.5, 0.0, 0.5], [0.0, 0.9, 0.5], [0.0, 0.0, 1.0]])


@given(st.integers(2, 64).map(lambda n: 4 * n))
def test_a_head_is_split_over_time_row_and_column_in_whole_pairs(head_dim: int) -> None:
    time, rows, columns = positional.rope_split(head_dim)
    assert time + rows + columns == head_dim
    assert rows == columns <= time
    assert time % 2 == rows % 2 == 0


def test_the_production_head_is_split_as_specified() -> None:
    assert positional.rope_split(128) == (44, 42, 42)


def test_rope_scores_depend_on_the_distance_of_two_tokens_alone() -> None:
    q, k = torch.randn(2, 1, 1, 24, generator=torch.Generator().manual_seed(0))

    def score(q_frame: int, k_frame: int) -> float:
        turned = [
            positional.apply_rope(x[None], *positional.rope_table(range(frame, frame + 1), 1, 1, 24))
            for x, frame in ((q, q_frame), (k, k_frame))
        ]
        return float((turned[0] * turned[1]).sum())

    assert np.isclose(score(3, 1), score(19, 17), atol=1e-5)
    assert not np.isclose(score(3, 1), score(3, 2), atol=1e-3)


def test_rope_tells_rows_from_columns_and_keeps_lengths() -> None:
    x = torch.randn(1, 1, 1, 24, generator=torch.Generator().manual_seed(0)).expand(1, 6, 1, 24)
    turned = positional.apply_rope(x, *positional.rope_table(range(1), 2, 3, 24))
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), atol=1e-5)
    distances = torch.cdist(turned[0, :, 0], turned[0, :, 0]) + torch.eye(6)
    assert distances.min() > 1e-2


def _positions(poses: np.ndarray) -> Positions:
    viewmats = torch.from_numpy(view_matrices(poses))[None]
    K = INTRINSICS.expand(1, len(poses), 3, 3)
    return Positions(torch.empty(0), torch.empty(0), *positional.projections(viewmats, K))


def _attend(poses: np.ndarray, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    positions = _positions(poses)
    q, k, v = (
        positional.prope_queries(q, positions),
        positional.prope_keys_values(k, positions),
        positional.prope_keys_values(v, positions),
    )
    weights = torch.einsum("bqhd,bkhd->bhqk", q, k).div(q.shape[-1] ** 0.5).softmax(-1)
    return positional.prope_outputs(torch.einsum("bhqk,bkhd->bqhd", weights, v), positions)


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(-1.5, 1.5))
def test_prope_attention_depends_on_relative_cameras_alone(forward: float, right: float, yaw: float) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 3 * 2, 2, 8, generator=generator)  # three frames of two tokens
    poses = integrate(np.eye(4), [Motion(forward=0.2, yaw=0.3), Motion(right=-0.1, pitch=0.2)])
    moved = rebase(poses, integrate(np.eye(4), [Motion(forward, right, yaw, 0.1)])[-1])
    assert torch.allclose(_attend(poses, q, k, v), _attend(moved, q, k, v), atol=1e-4)


def test_prope_attention_changes_with_a_relative_camera() -> None:
    q, k, v = torch.randn(3, 1, 2, 2, 8, generator=torch.Generator().manual_seed(0))
    still, moved = (integrate(np.eye(4), [Motion(forward=step)]) for step in (0.0, 0.08))
    assert not torch.allclose(_attend(still, q, k, v), _attend(moved, q, k, v), atol=1e-2)


def test_projection_and_inverse_undo_each_other_for_cameras_that_are_not_rigid() -> None:
    viewmats = torch.eye(4)[None, None] * torch.tensor([1.0, 2.0, 0.5, 1.0])
    projection, inverse = positional.projections(viewmats, INTRINSICS.expand(1, 1, 3, 3))
    assert torch.allclose(projection @ inverse, torch.eye(4), atol=1e-6)
