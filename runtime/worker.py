"""A compile worker: reads jobs from standard input, writes objects to standard output.

First line: the target's text as a JSON string; then one JSON object per job. Each answer is a
success flag (one byte), a length (8 bytes, little-endian) and the object or an error message.
"""

from __future__ import annotations

import gc
import json
import os
import struct
import sys

from ..ir.errors import EvonnxError
from ..ir.target import Target


def main() -> None:
    """Serve until standard input ends."""
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing but answers may go where answers go
    target = Target.parse(json.loads(source.readline()))
    from .crew import Job

    # Before the first job comes: Numba is imported and has set itself up, and what it made, which
    # will not become garbage, is out of the collector's sight.
    Job("first", "def kernel(bufs, params, begin, end):\n    ptr_f32(bufs, 0)\n").compile(target)
    gc.freeze()
    gc.set_threshold(50_000)
    sink.write(b"ready\n")
    sink.flush()
    for line in source:
        fields = json.loads(line)
        job = Job(fields["symbol"], fields["text"], tuple(fields["externs"]), fields["is_ir"])
        try:
            ok, data = True, job.compile(target)
        except EvonnxError as error:
            ok, data = False, str(error).encode()
        sink.write(struct.pack("<?Q", ok, len(data)) + data)
        sink.flush()
