"""Worlds that are shared within a process: made once, for every caller that asks while one is in use.

Each has a lock of its own, so that one may be made while another is. A caller that would wait for ever gets an error.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any

_POLL_SECONDS = 0.2
"""How often a waiting thread looks whether what it waits for has come to wait for it."""


class Shared:
    """What was made under each key, for as long as anybody holds it.

    Safe to call from several threads, and from within a `make` of another key, or of the same one.
    """

    def __init__(self) -> None:
        self._made: weakref.WeakValueDictionary[Hashable, Any] = weakref.WeakValueDictionary()
        self._guard = threading.Condition()
        self._makers: dict[Hashable, int] = {}  # key -> the thread that makes it
        self._waiting: dict[int, Hashable] = {}  # thread -> the key that it waits for
        # A child has none of its parent's threads: what they were making is nobody's there.
        if hasattr(os, "register_at_fork"):
            forget = weakref.WeakMethod(self._forget_makers)
            os.register_at_fork(after_in_child=lambda: (method := forget()) and method())

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return what is there under a key, made now if it is not.

        Raises:
            RuntimeError: It is being made in another thread, which waits for this one.
        """
        me = threading.get_ident()
        with self._guard:
            self._wait_for_turn(key, me)
            if (found := self._made.get(key)) is not None:
                return found
            outermost = key not in self._makers
            self._makers[key] = me
        try:
            made = make()
            with self._guard:
                return self._made.setdefault(key, made)  # of a nested call for the same key, the inner one's
        finally:
            if outermost:
                with self._guard:
                    self._makers.pop(key, None)
                    self._guard.notify_all()

    def _wait_for_turn(self, key: Hashable, me: int) -> None:
        """Wait, with the guard held, until no other thread makes what is under the key."""
        try:
            while (maker := self._makers.get(key, me)) != me:
                self._waiting[me] = key
                if self._waits_for(maker, me):
                    names = {thread.ident: thread.name for thread in threading.enumerate()}
                    raise RuntimeError(
                        f"loading this world would wait for ever: the thread {names.get(maker, maker)!r} is loading "
                        f"it, and that waits for this thread, {names.get(me, me)!r}, to load another world or to end "
                        f"an import. Load worlds in one thread, or when the imports are done: {key!r}"
                    )
                self._guard.wait(_POLL_SECONDS)
        finally:
            self._waiting.pop(me, None)

    def _waits_for(self, thread: int, target: int) -> bool:
        """Whether a thread waits for another, directly or for one that does, for something made here or an import."""
        seen = set()
        while thread not in seen:
            if thread == target:
                return True
            seen.add(thread)
            following = self._makers.get(self._waiting[thread]) if thread in self._waiting else _importer_of(thread)
            if following is None:
                return False
            thread = following
        return False

    def _forget_makers(self) -> None:
        self._guard = threading.Condition()
        self._makers.clear()
        self._waiting.clear()


def _importer_of(thread: int) -> int | None:
    """Return the thread that is importing the module which another thread waits to import; None if it waits for none.

    The import system keeps this to itself: it is read from the waiting thread's frames, and not being there means no.
    """
    frame = sys._current_frames().get(thread)
    while frame is not None:
        if frame.f_code.co_name == "acquire" and frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return getattr(frame.f_locals.get("self"), "owner", None)
        frame = frame.f_back
    return None
