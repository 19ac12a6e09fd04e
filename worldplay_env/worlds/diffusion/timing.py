"""A stopwatch that splits work on a device into parts without waiting for each."""

from __future__ import annotations

import time

import torch


class Stopwatch:
    """Seconds by part of a piece of work.

    On a GPU it records events into the stream and asks for them once, in `seconds`; on a CPU it reads the clock.

    Args:
        device: Where the work runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[tuple[str, torch.cuda.Event | float]] = [("", self._now())]

    def lap(self, part: str) -> None:
        """Say that what ran since the last lap was `part`; laps of one name add up."""
        self._marks.append((part, self._now()))

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each part and of all ("total"); waits for the device."""
        end = self._marks[-1][1]
        if isinstance(end, torch.cuda.Event):
            end.synchronize()
        parts: dict[str, float] = {}
        for (_, before), (part, after) in zip(self._marks, self._marks[1:], strict=False):
            parts[part] = parts.get(part, 0.0) + _elapsed(before, after)
        return {**parts, "total": _elapsed(self._marks[0][1], self._marks[-1][1])}

    def _now(self) -> torch.cuda.Event | float:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event


def _elapsed(before: torch.cuda.Event | float, after: torch.cuda.Event | float) -> float:
    if isinstance(before, float) and isinstance(after, float):
        return after - before
    return before.elapsed_time(after) / 1000  # type: ignore[union-attr, arg-type]
