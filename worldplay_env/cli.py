"""What programs say of what went wrong."""

from __future__ import annotations

import sys


def in_words(error: BaseException) -> str:
    """Return what an error says, in its own lines; of the operating system's, the file first."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return str(error).strip() or type(error).__name__


def fail(reason: BaseException | str, code: int) -> int:
    """Tell the user what went wrong, on standard error, and return the program's exit code."""
    print(f"error: {reason if isinstance(reason, str) else in_words(reason)}", file=sys.stderr)
    return code
