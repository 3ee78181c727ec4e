"""A compile worker: takes jobs from one pipe, gives objects to another.

The process (started by ``workers``) imports the compiler, compiles a first kernel, and divides
itself (``fork``) into as many as there are pairs of pipes: what LLVM takes is read and paid for
once. A job is one line of JSON. An answer is a success flag (one byte), a length (8 bytes,
little-endian) and the object or an error message. Whoever asks ends a worker by closing its pipe.
"""

from __future__ import annotations

import gc
import json
import os
import struct
from dataclasses import asdict, dataclass
from typing import BinaryIO

from ..ir.errors import EvonnxError
from ..ir.target import Target

READY = b"ready\n"
"""What a worker says once, before its first answer."""
ANSWER = struct.Struct("<?Q")
"""Head of an answer."""
_FIRST = "def kernel(bufs, params, begin, end):\n    ptr_f32(bufs, 0)\n"


@dataclass(frozen=True, slots=True)
class Job:
    """One object to make: kernel source, LLVM IR, or a micro-kernel, whose IR follows from its
    symbol: whoever compiles it writes the IR, which is hundreds of kilobytes of text."""

    symbol: str
    text: str
    """Source or IR; "" for a micro-kernel."""
    externs: tuple[str, ...] = ()
    is_ir: bool = False

    @classmethod
    def of_ir(cls, symbol: str, text: str) -> Job:
        """LLVM IR that LLVM's passes run over."""
        return cls(symbol, text, is_ir=True)

    @property
    def is_micro(self) -> bool:
        """Whether it is a micro-kernel."""
        return not self.text

    def compile(self, target: Target) -> bytes:
        """The object; raises ``CompileError``."""
        from ..kernels import jit  # LLVM, which a program from the cache does without

        if self.is_micro:
            from ..kernels.micro import named

            return jit.compile_ir_text(named(self.symbol, target).text(), target, optimize=False)
        if self.is_ir:
            return jit.compile_ir_text(self.text, target, self.externs)
        return jit.compile_source(self.text, self.symbol, target, self.externs)

    def line(self) -> bytes:
        """The job as a worker reads it."""
        return json.dumps(asdict(self)).encode() + b"\n"


def main(target: str, pipes: list[list[int]]) -> None:
    """Serves until every pipe is closed; does not return. ``pipes``: where a worker reads and where
    it writes, file descriptors."""
    machine = Target.parse(target)
    Job("first", _FIRST).compile(machine)  # LLVM sets itself up
    # What was made will not become garbage; the collector would write to all of its pages.
    gc.freeze()
    gc.set_threshold(50_000)
    children = []
    for k in range(1, len(pipes)):
        if not (child := os.fork()):
            _serve(machine, pipes, k)
        children.append(child)
    _serve(machine, pipes, 0, children)


def _serve(target: Target, pipes: list[list[int]], own: int, children: list[int] | None = None
           ) -> None:
    """The rest of a worker's life: answers jobs, then waits for ``children``."""
    try:
        for k, both in enumerate(pipes):
            for descriptor in both if k != own else ():
                os.close(descriptor)
        with open(pipes[own][0], "rb") as source, open(pipes[own][1], "wb") as sink:
            sink.write(READY)
            sink.flush()
            for line in source:
                _answer(line, target, sink)
        for child in children or ():
            os.waitpid(child, 0)
    finally:
        os._exit(0)  # neither what the other process began nor Python's own end is ours to do


def _answer(line: bytes, target: Target, sink: BinaryIO) -> None:
    fields = json.loads(line)
    job = Job(**{**fields, "externs": tuple(fields["externs"])})
    try:
        ok, data = True, job.compile(target)
    except EvonnxError as error:
        ok, data = False, str(error).encode()
    sink.write(ANSWER.pack(ok, len(data)) + data)
    sink.flush()

