"""The throughput example measures what it says, and the env itself takes next to none of a step."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripts import run_script


@pytest.mark.slow
def test_the_table_has_a_row_for_each_number_of_worlds_and_the_env_takes_under_two_hundredths_of_a_step(
    tmp_path: Path,
) -> None:
    arguments = ["--num-envs", "1", "2", "--steps", "2", "--warm-up", "1", "--most-processes", "1"]
    result = run_script("examples/throughput.py", *arguments, folder=tmp_path)

    assert result.returncode == 0, result.stderr
    lines = [line.strip("| ").split(" | ") for line in result.stdout.splitlines() if line.startswith("|")]
    header, rows = lines[0], [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]
    assert header[2:5] == ["WorldPlayVectorEnv", "SyncVectorEnv", "AsyncVectorEnv"]
    assert [(row["observation"], row["N"]) for row in rows] == [
        (kind, number) for kind in ("chunk", "latent") for number in ("1", "2")
    ]
    assert [row["AsyncVectorEnv"] == "-" for row in rows] == [False, True, False, True]
    for row in rows:
        ours, theirs = float(row["WorldPlayVectorEnv"]), float(row["SyncVectorEnv"])
        assert ours > 0
        assert float(row["batched / sync"]) == pytest.approx(ours / theirs, rel=0.02)
        assert float(row["outside the world"].rstrip("%")) < 2
    assert "spent outside the world" in result.stdout
