"""Host steps: ops on strings, sequences and optionals, which no kernel can run.

Their functions are part of the op table (``ir.ops.host``), so that the interpreter and compiled
programs share one meaning. Arrays a function gets are views of memory that the next call reuses:
it must not keep them.
"""

from __future__ import annotations

from ..ir.ops.host import HOST, HostFunction, host
from ..ir.ops.host import host_function as lookup

__all__ = ["HOST", "HostFunction", "host", "lookup"]
