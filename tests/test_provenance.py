"""Files are whole or not there."""

from __future__ import annotations

import json
import os
import platform
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from worldplay_env.media.files import check_regular, new_file, replacing, write_json
from worldplay_env.provenance import device_name, load_average, processor_name


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


def test_files_that_have_a_likely_name_are_neither_followed_nor_lost(tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text("mine")
    (tmp_path / "a.partial.json").symlink_to(kept)
    write_json(tmp_path / "a.json", {"a": 1})
    assert kept.read_text() == "mine"
    assert (tmp_path / "a.partial.json").is_symlink()


def test_new_files_are_new_and_as_open_as_others(tmp_path: Path) -> None:
    files = {new_file(tmp_path / "deep" / "a.tar") for _ in range(20)}
    assert len(files) == 20
    assert {path.suffix for path in files} == {".tar"}
    plain = tmp_path / "plain"
    plain.touch()
    assert {path.stat().st_mode for path in files} == {plain.stat().st_mode}
    with replacing(tmp_path / "b") as partial:
        partial.unlink()
        partial.touch(mode=0o600)  # as libraries do that write by a file of their own
    assert (tmp_path / "b").stat().st_mode == plain.stat().st_mode


def test_of_two_writers_one_has_its_whole_file_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"values": [0] * 2000})
    stopped = threading.Event()

    def rewrite(value: int) -> None:
        while not stopped.is_set():
            write_json(path, {"values": [value] * 2000})

    writers = [threading.Thread(target=rewrite, args=(value,)) for value in (1, 2)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(100):
            assert len(set(json.loads(path.read_text())["values"])) == 1
    finally:
        stopped.set()
        for writer in writers:
            writer.join()
    assert list(tmp_path.iterdir()) == [path]


def test_a_pipe_is_refused_before_it_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe: no regular file"):
        check_regular(tmp_path / "pipe")
    check_regular(tmp_path / "nothing")


def test_figures_can_be_told_by_the_processor_its_threads_and_its_load(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processor_name()
    assert device_name(torch.device("cpu")) == f"{processor_name()}, {torch.get_num_threads()} threads"
    load = load_average()
    assert load is None or load >= 0
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "processor : 0\nmodel name : A Chip 9\n")
    assert processor_name() == "A Chip 9"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "no names here")
    assert processor_name() == (platform.processor() or platform.machine())
