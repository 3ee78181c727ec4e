"""The bindings a runner keeps between calls, bounded in number and bytes, oldest use first out.

A binding is everything that follows from the sizes of one call (memory plan, tables of the driver);
making one costs a fraction of a millisecond and compiles nothing. A key is what the sizes follow
from: shapes of the inputs and sizes from outside, or, for a later period of a call, the binding of
the period before and the sizes that became known since. An entry keeps the entry before it alive,
so a chain is dropped only when all of it is.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from .forks import after_fork
from .tables import Binding

MOST = 256
"""Bindings a runner keeps."""
MOST_BYTES = 32 << 20
"""Bytes they may take together; the latest is kept whatever its size."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What an executable keeps for sizes it has seen, all its runners together."""

    count: int
    """Bindings kept now."""
    nbytes: int
    """Estimated bytes of them."""
    made: int
    """Bindings made so far."""
    dropped: int
    """Bindings dropped to stay within the bounds."""
    most: int
    """Bindings kept at most."""
    most_bytes: int
    """Bytes kept at most."""

    def __add__(self, other: Kept) -> Kept:
        return Kept(
            self.count + other.count, self.nbytes + other.nbytes, self.made + other.made,
            self.dropped + other.dropped, self.most + other.most,
            self.most_bytes + other.most_bytes,
        )  # fmt: skip


class Bindings:
    """A table of bindings; safe for several threads at once."""

    def __init__(self, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self.most, self.most_bytes = most, most_bytes
        self._table: OrderedDict[Any, Binding] = OrderedDict()
        self.latest: Binding | None = None
        """The binding of the latest call; of a later period, if it has several."""
        self._nbytes = self._made = self._dropped = 0
        self._lock = threading.Lock()
        after_fork(self)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._table)

    def get(self, key: Any) -> Binding | None:
        """The binding kept under ``key``, which becomes the most recent one."""
        found = self._table.get(key)
        if found is not None and found is not self.latest:
            with self._lock:
                self.latest = found
                if key in self._table:
                    self._table.move_to_end(key)
        return found

    def put(self, key: Any, binding: Binding) -> Binding:
        """Keeps ``binding`` and drops what exceeds the bounds; answers the one kept under ``key``,
        which is another if two threads made it at once."""
        with self._lock:
            self._made += 1
            found = self._table.setdefault(key, binding)
            self.latest = found
            if found is binding:
                self._nbytes += binding.nbytes
                while len(self._table) > 1 and (
                    len(self._table) > self.most or self._nbytes > self.most_bytes
                ):
                    _, old = self._table.popitem(last=False)
                    self._nbytes -= old.nbytes
                    self._dropped += 1
            return found

    def chain(self) -> list[Binding]:
        """The bindings of the latest call, period by period; empty before the first."""
        found: list[Binding] = []
        latest = self.latest
        while latest is not None:
            found.append(latest)
            latest = latest.parent
        return found[::-1]

    def clear(self) -> None:
        """Forgets all bindings."""
        with self._lock:
            self._table.clear()
            self.latest = None
            self._nbytes = 0

    def kept(self) -> Kept:
        """Counts and bounds."""
        with self._lock:
            return Kept(len(self._table), self._nbytes, self._made, self._dropped, self.most,
                        self.most_bytes)
