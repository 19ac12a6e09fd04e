"""Files that are whole or not there."""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield the path of a file to write beside `path`; it takes that name when the block ends, not if it fails.

    The folder is made if there is none. Of several writers of one path the last to end has its whole file there.
    """
    path = Path(path)
    partial = new_file(path)
    mode = stat.S_IMODE(partial.stat().st_mode)
    try:
        yield partial
        partial.chmod(mode)  # some libraries put a file of their own in its place, readable by its owner alone
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def new_file(path: str | Path) -> Path:
    """Make an empty file beside `path`, under a name like `STEM.0123abcd.partial.SUFFIX` that was free; return it.

    The folder is made if there is none.

    Raises:
        OSError: The file cannot be made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        partial = path.with_name(f"{path.stem}.{secrets.token_hex(4)}.partial{path.suffix}")
        try:
            os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            continue
        return partial


def check_regular(path: str | Path) -> None:
    """Raise ValueError unless `path` is a regular file: opening a pipe would block for ever."""
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: no regular file")


def write_json(path: str | Path, values: Mapping[str, Any]) -> None:
    """Write an object of plain values, paths and numpy arrays as JSON; an older file stays until it is complete."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(values, indent=2, default=_plain) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no plain value: {value!r}")
