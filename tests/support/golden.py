"""Run recorded cases: `python tests/support/golden.py [FOLDER]`, by default those in tests/golden.

A folder holds one JSON file a case and the tensors that it lists. All sizes, names and tolerances come from these
files, and nothing else is read. Prints `case/item: worst error / tolerance` a line, then the worst of the case; names
the items that a rule leaves out, with the rule. Exits with 1 if an item fails, with 2 if the folder holds no case.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from golden_cases import abot, abot_rollouts, control, networks, preparation, rollouts
from golden_cases.case import Case
from golden_cases.comparison import Row

FOLDER = Path(__file__).parents[1] / "golden"
ABOT_FOLDER = FOLDER / "abot"

Check = Callable[[Case], Iterator[Row]]
Recognise = Callable[[dict[str, Any]], bool]

KINDS: dict[str, tuple[Check, Recognise]] = {
    "poses": (control.poses, lambda values: "pose_string_errors" in values),
    "fov_memory": (control.fov_memory, lambda values: "memory_frames" in values.get("parameters", {})),
    "image_and_text": (preparation.image_and_text, lambda values: "prompt_clean" in values),
    "prope": (networks.prope, lambda values: "tokens_per_camera" in values.get("config", {})),
    "schedule": (networks.schedule, lambda values: "timesteps" in values),
    "transformer": (networks.transformer, lambda values: "calls" in values),
    "vae": (networks.vae, lambda values: "streaming" in values),
    "rollout": (rollouts.rollout, lambda values: "vae_config" in values),
    "keys": (networks.keys, lambda values: "checkpoint" in values),
    "abot_actions": (abot.actions, lambda values: "held_cases" in values),
    "abot_schedule": (abot.schedule, lambda values: "sigma_table" in values),
    "abot_transformer": (abot.transformer, lambda values: "streams" in values),
    "abot_image": (abot.image, lambda values: "pillow" in values),
    "abot_vae": (abot.autoencoder, lambda values: "frame_counts" in values),
    "abot_taew": (abot_rollouts.small_decoder, lambda values: "decoding" in values),
    "abot_text": (abot.text, lambda values: "text_config" in values),
    "abot_rollout": (abot_rollouts.rollout, lambda values: "decoder_config" in values),
    "abot_keys": (abot.keys, lambda values: "renaming_rules" in values),
}
"""For each kind of case: how it is checked, and what tells it if its name does not begin with the kind's."""


def cases(folder: Path) -> list[Case]:
    """Read the cases of a folder: every JSON file but the trajectories, which are inputs of cases."""
    files = [Case.read(path) for path in sorted(folder.glob("*.json"))]
    return [case for case in files if "case" in case.values or not _is_trajectory(case.values)]


def _is_trajectory(values: Any) -> bool:
    return all(isinstance(entry, dict) and "extrinsic" in entry for entry in values.values())


def kind_of(case: Case) -> str | None:
    """Tell a case's kind, by its name or else by what is in it; None if it is none of `KINDS`."""
    name = str(case.values.get("case", case.name))
    by_name = (kind for kind in KINDS if name.startswith(kind))
    by_content = (kind for kind, (_, recognise) in KINDS.items() if recognise(case.values))
    return next(by_name, None) or next(by_content, None)


def run(case: Case) -> Iterator[Row]:
    """Check one case; whatever goes wrong on the way is a row that fails."""
    kind = kind_of(case)
    if kind is None:
        yield Row(case.name, float("inf"), note=f"unknown kind of case; known are {', '.join(KINDS)}")
        return
    check, _ = KINDS[kind]
    try:
        yield from check(case)
    except Exception as error:
        yield Row(case.name, float("inf"), note=f"{type(error).__name__}: {error}")


def main(arguments: list[str]) -> int:
    """Run the folder's cases and return the exit status."""
    if len(arguments) > 1 or arguments[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return 0 if len(arguments) == 1 else 2
    folder = Path(arguments[0]) if arguments else FOLDER
    if not folder.is_dir():
        print(f"{folder} is no folder; give one with recorded cases (JSON and safetensors files)", file=sys.stderr)
        return 2
    found = cases(folder)
    if not found:
        print(f"{folder} holds no recorded case (a JSON file that describes one)", file=sys.stderr)
        return 2
    rows: list[Row] = []
    for case in found:
        before = len(rows)
        for row in run(case):
            print(row, flush=True)
            rows.append(row)
        worst = max((row for row in rows[before:] if not row.skipped), key=lambda row: row.share, default=None)
        if worst is None:
            rows.append(Row(case.name, float("inf"), note="nothing was compared"))
            print(rows[-1])
        elif worst.name != case.name:
            print(f"{case.name}: {worst.figures}, at {worst.name.removeprefix(f'{case.name}/')}")
    failed, left_out = sum(not row.passed for row in rows), sum(row.skipped for row in rows)
    print(f"{len(found)} cases, {len(rows)} items: {len(rows) - failed - left_out} passed, ", end="")
    print(f"{failed} failed, {left_out} skipped by rule")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
