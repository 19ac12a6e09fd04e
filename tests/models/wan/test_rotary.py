"""RoPE has the properties that give it its meaning."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from worldplay_env.models.wan.rotary import RopeTables, apply_rope, rope_split, rope_table


@given(st.integers(2, 64).map(lambda n: 4 * n))
def test_a_head_is_split_over_time_row_and_column_in_whole_pairs(head_dim: int) -> None:
    time, rows, columns = rope_split(head_dim)
    assert time + rows + columns == head_dim
    assert rows == columns <= time
    assert time % 2 == rows % 2 == 0


def test_the_production_head_is_split_as_specified() -> None:
    assert rope_split(128) == (44, 42, 42)


def test_rope_scores_depend_on_the_distance_of_two_tokens_alone() -> None:
    q, k = torch.randn(2, 1, 1, 24, generator=torch.Generator().manual_seed(0))

    def score(q_frame: int, k_frame: int) -> float:
        turned = [
            apply_rope(x[None], *rope_table(range(frame, frame + 1), 1, 1, 24))
            for x, frame in ((q, q_frame), (k, k_frame))
        ]
        return float((turned[0] * turned[1]).sum())

    assert np.isclose(score(3, 1), score(19, 17), atol=1e-5)
    assert not np.isclose(score(3, 1), score(3, 2), atol=1e-3)


def test_rope_tells_rows_from_columns_and_keeps_lengths() -> None:
    x = torch.randn(1, 1, 1, 24, generator=torch.Generator().manual_seed(0)).expand(1, 6, 1, 24)
    turned = apply_rope(x, *rope_table(range(1), 2, 3, 24))
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), atol=1e-5)
    distances = torch.cdist(turned[0, :, 0], turned[0, :, 0]) + torch.eye(6)
    assert distances.min() > 1e-2


def test_tables_are_made_once_until_they_are_dropped() -> None:
    tables, device = RopeTables(24), torch.device("cpu")
    first, again = (tables(range(4), 2, 3, device) for _ in range(2))
    assert first is again
    tables.clear()
    anew = tables(range(4), 2, 3, device)
    assert anew is not first
    torch.testing.assert_close(anew, first)
