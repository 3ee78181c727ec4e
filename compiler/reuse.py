"""Results written over what nobody needs any more: elementwise operations in place.

A sum of two activations needs no memory of its own where one of them is read for the last time:
each element is written where it was read. Which operands of a group allow that is
``ir.groups.overwritable``'s to say; here lifetimes decide. The buffer of such a result becomes a
view of the operand's, so the plan of the arena sees one piece of memory that lives from the first
to the last of them. A chain of partial sums is one buffer in this way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..ir.types import TensorType
from ..runtime.program import (
    Buffer,
    KernelStep,
    Step,
    side_by_side,
    step_reads,
    step_writes,
)  # fmt: skip


def in_place(buffers: Sequence[Buffer], steps: Sequence[Step], outputs: Sequence[int],
             over: Mapping[int, Sequence[int]]) -> tuple[Buffer, ...]:
    """The buffers, some of them views of what they overwrite.

    ``over``: for a buffer that one kernel writes, those that the kernel reads and may overwrite. It
    does where these are intermediate values, of the same size as all of the memory they lie in,
    that neither a later step nor one that runs at the same time touches, and no output of the
    program."""
    found = list(buffers)

    def root(b: int) -> int:
        while (parent := found[b].view_of) is not None:
            b = parent
        return b

    touched: dict[int, set[int]] = {}
    fixed = {root(b) for b in outputs}
    for position, step in enumerate(steps):
        for b in (*step_reads(step), *step_writes(step)):
            touched.setdefault(root(b), set()).add(position)
        if not isinstance(step, KernelStep):
            fixed.update(map(root, step_writes(step)))
    for position, (step, (first, _)) in enumerate(zip(steps, side_by_side(steps), strict=True)):
        for result in step_writes(step):
            for operand in over.get(result, ()):
                held = root(operand)
                if (result in fixed or held in fixed or found[result].view_of is not None
                        or found[held].role != "arena" or not _alike(found[result], found[held])
                        or any(p >= first and p != position for p in touched[held])):
                    continue
                found[result] = replace(found[result], view_of=operand)
                touched[held] |= touched.pop(result)
                break
    return tuple(found)


def _alike(one: Buffer, other: Buffer) -> bool:
    """Whether two tensors take as many bytes whatever the sizes are."""
    types = one.type, other.type
    return (isinstance(types[0], TensorType) and isinstance(types[1], TensorType)
            and types[0].nbytes() == types[1].nbytes())
