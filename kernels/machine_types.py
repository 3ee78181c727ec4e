"""Types of what kernel source computes with: machine numbers, pointers, literals.

There is one object per type, so types are compared by identity. The names are those that Numba
gives its types, as the words (``words``) are also made Numba's (``plain_numba``).
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import NamedTuple


class TypingError(Exception):
    """Kernel source whose types do not fit."""


class Signature(NamedTuple):
    """Types of a result and of the arguments it is made from."""

    return_type: Type
    args: tuple[Type, ...]


class Type:
    """A type; called with types of arguments, the signature of what makes one of them."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *args: Type) -> Signature:
        return Signature(self, args)

    def __repr__(self) -> str:
        return self.name


class Number(Type):
    """Numbers."""


class Integer(Number):
    """Integers of some width."""

    def __init__(self, name: str, bitwidth: int, signed: bool) -> None:
        super().__init__(name)
        self.bitwidth, self.signed = bitwidth, signed


class Float(Number):
    """IEEE 754's binary numbers."""


class Boolean(Type):
    """Truth values."""


class CPointer(Type):
    """The addresses or the sizes that a kernel is called with."""


class Pointer(Type):
    """A pointer to elements of one type, under one alias tag; made by ``pointer``."""

    def __init__(self, dtype: str, tag: int) -> None:
        super().__init__(f"ptr_{dtype}_{tag}")
        self.dtype, self.tag = dtype, tag


class Literal(Type):
    """A number, a truth value or a string that is known; made by ``literal``."""

    def __init__(self, value: bool | int | str) -> None:
        super().__init__(f"literal {value!r}")
        self.literal_value = value


class IntegerLiteral(Literal):
    """An integer that is known."""

    literal_value: int


class StringLiteral(Literal):
    """A string that is known; there are no other ones."""

    literal_value: str


int8, int16, int32, int64 = (Integer(f"int{n}", n, True) for n in (8, 16, 32, 64))
uint8, uint16, uint32, uint64 = (Integer(f"uint{n}", n, False) for n in (8, 16, 32, 64))
float32, float64 = Float("float32"), Float("float64")
boolean = Boolean("bool")
wide = Type("wide")
"""The bits of a complex128: 128 bits that are only moved."""
void = Type("none")
int64_pointer = CPointer("int64*")


@cache
def pointer(dtype: str, tag: int) -> Pointer:
    """The pointer to elements ``dtype`` (``words.STORED``) under the alias tag ``tag``."""
    return Pointer(dtype, tag)


@lru_cache(maxsize=None, typed=True)
def literal(value: bool | int | str) -> Literal:
    """The type of a literal."""
    kinds: dict[type, type[Literal]] = {int: IntegerLiteral, str: StringLiteral}
    return kinds.get(type(value), Literal)(value)


def unliteral(kind: Type) -> Type:
    """The type of a value of type ``kind`` where it is not known."""
    if isinstance(kind, IntegerLiteral):
        return int64
    return boolean if type(kind) is Literal else kind
