"""`python -m worldplay_env`, or `worldplay`: the commands, and by their names each of them."""

from __future__ import annotations

import difflib
import runpy
import sys
from collections.abc import Sequence

from worldplay_env import __version__

COMMANDS = {
    "play": "walk through a world with the keyboard",
    "rollout": "a film of a world along a camera path",
    "bench": "what each part of a chunk costs",
    "evaluate": "a world against the rendered truth",
    "weights": "fetch weights, or convert them from other layouts",
    "scenes": "start pictures from procedural scenes",
    "training": "train the embedded world, stage by stage",
}
"""What each command does; `worldplay NAME` runs the module `worldplay_env.NAME`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """List the commands, or run the one that is named; return its exit code, or 2 where there is none of that name.

    Args:
        arguments: Of the command line, by default the program's own: a command, and what it is given.
    """
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in COMMANDS:
        sys.argv = [f"worldplay {name}", *rest]
        # As `python -m` would, so that a command begins in the same way: before anything imports torch.
        runpy.run_module(f"worldplay_env.{name}", run_name="__main__", alter_sys=True)
        return 0
    if name in ("-h", "--help"):
        print(_listing())
        return 0
    if name == "--version":
        print(f"worldplay-env {__version__}")
        return 0
    near = difflib.get_close_matches(name, COMMANDS, 1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    print(f"error: there is no command {name!r}{hint}; known are {', '.join(COMMANDS)}", file=sys.stderr)
    return 2


def _listing() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: worldplay COMMAND ...   (or python -m worldplay_env COMMAND ...)",
            "",
            *lines,
            "",
            "worldplay COMMAND --help says what a command can be told.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
