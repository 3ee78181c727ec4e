"""What has to happen in the child of a fork: locks made anew, threads forgotten.

A child has one thread. A lock that another thread held at the moment of the fork would stay locked
there for ever, so every object with a lock registers here and replaces it in the child.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Protocol


class Forked(Protocol):
    """Something that must be told that it is now in a child process."""

    def _after_fork(self) -> None: ...


_OBJECTS: weakref.WeakSet[Forked] = weakref.WeakSet()
_FUNCTIONS: list[Callable[[], None]] = []


def after_fork(obj: Forked) -> None:
    """Have ``obj._after_fork()`` called in every child process while ``obj`` lives."""
    _OBJECTS.add(obj)


def call_after_fork(function: Callable[[], None]) -> None:
    """Have ``function()`` called in every child process."""
    _FUNCTIONS.append(function)


def _in_child() -> None:
    for function in _FUNCTIONS:
        function()
    for obj in list(_OBJECTS):
        obj._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
