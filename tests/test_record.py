"""Files are whole or not there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from worldplay_env.record import write_json


def test_json_holds_arrays_and_paths_as_plain_values(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    write_json(path, {"memory": np.arange(3), "count": np.int64(2), "out": Path("a/b"), "none": None})
    assert json.loads(path.read_text()) == {"memory": [0, 1, 2], "count": 2, "out": "a/b", "none": None}


def test_what_cannot_be_written_leaves_the_older_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError, match="object"):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]
