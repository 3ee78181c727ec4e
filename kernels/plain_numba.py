"""The words as Numba intrinsics: kernel source is plain Numba.

In a namespace with ``intrinsics()``, what the emitter writes can be compiled and stepped through by
``numba.njit`` like any function of a user's own. ``frontend`` does the same without Numba.
"""

from __future__ import annotations

import inspect
from typing import Any

from llvmlite import ir
from numba.core import types as numba_types
from numba.core.errors import TypingError
from numba.extending import intrinsic, models, register_model

from . import machine_types as types
from .words import LLVM_VALUES, STORED, Definition, load

_PLAIN: dict[types.Type, Any] = {
    **{kind: getattr(numba_types, kind.name) for kind in LLVM_VALUES
       if isinstance(kind, types.Number)},
    types.boolean: numba_types.boolean, types.void: numba_types.void,
    types.int64_pointer: numba_types.CPointer(numba_types.int64),
}  # fmt: skip
"""Our type -> Numba's."""
_OURS = {theirs: ours for ours, theirs in _PLAIN.items()}


class _Held(numba_types.Type):
    """A type that Numba lacks."""

    def __init__(self, ours: types.Type) -> None:
        self.ours = ours
        super().__init__(name=f"evonnx {ours}")


@register_model(_Held)
class _HeldModel(models.PrimitiveModel):
    def __init__(self, manager: Any, held: _Held) -> None:
        ours = held.ours
        stored = STORED[ours.dtype].as_pointer() if isinstance(ours, types.Pointer) else None
        super().__init__(manager, held, stored or LLVM_VALUES[ours])


def _ours(theirs: Any) -> types.Type:
    if isinstance(theirs, numba_types.Literal):
        return types.literal(theirs.literal_value)
    return theirs.ours if isinstance(theirs, _Held) else _OURS[theirs]


def _theirs(ours: types.Type) -> Any:
    if isinstance(ours, types.Literal):
        return numba_types.literal(ours.literal_value)
    return _PLAIN[ours] if ours in _PLAIN else _Held(ours)


def _intrinsic(name: str, definition: Definition) -> Any:
    def define(context: Any, *args: Any) -> Any:
        try:
            found = definition(*map(_ours, args))
        except types.TypingError as error:
            raise TypingError(str(error)) from error
        if found is None:
            return None
        signature, build = found

        def code(target: Any, builder: ir.IRBuilder, _: Any, values: list[Any]) -> Any:
            value = build(builder, signature, values)
            return target.get_dummy_value() if value is None else value

        return _theirs(signature.return_type)(*map(_theirs, signature.args)), code

    define.__name__ = define.__qualname__ = name
    define.__doc__ = definition.__doc__
    # Numba reads the number of arguments off the function.
    form = inspect.signature(definition)
    first = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    define.__signature__ = form.replace(  # type: ignore[attr-defined]
        parameters=[first, *form.parameters.values()])
    return intrinsic(prefer_literal=True)(define)


def intrinsics() -> dict[str, Any]:
    """All words, by name."""
    return {name: _intrinsic(name, definition) for name, definition in load().items()}
