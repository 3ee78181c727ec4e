"""Tokens of all EvoNNX text (graphs, schedules), and errors that point at the place.

One regular expression cuts the text into names, numbers, JSON strings, value references
(``%12`` or ``%12:1``), digests (``@0f3c...``) and punctuation. Line ends carry no meaning, except
that they end a comment. ``Cursor`` reads the tokens one after the other; what it rejects becomes a
``ParseError`` with line, column and a caret under the offending character.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple, NoReturn

from .dim_parser import parse_dim
from .dims import Dim
from .errors import ParseError
from .types import DType, LooseTensor, MapType, OptionalType, SequenceType, TensorType, Type

MAX_CHARACTERS = 1 << 28
"""Longest text that is read."""
MAX_NESTING = 40
"""Deepest nesting of lists, types and regions that is read."""

_TOKEN = re.compile(
    r"""
      (?P<comment> \# [^\n]* )
    | (?P<ref>     % [0-9]+ (?: : [0-9]+ )? )
    | (?P<digest>  @ [0-9a-f]+ )
    | (?P<hex>     x" [0-9a-f]* " )
    | (?P<string>  " (?: [^"\\\n] | \\ [^\n] )* " )
    | (?P<float>   [0-9]+ \. [0-9]* (?: [eE] [-+]? [0-9]+ )? | [0-9]+ [eE] [-+]? [0-9]+ )
    | (?P<int>     [0-9]+ )
    | (?P<name>    [A-Za-z_] [A-Za-z0-9_.]* )
    | (?P<punct>   // | \*\* | -> | [-+*%(){}\[\],:=@/<>|] )
    """,
    re.VERBOSE,
)
_SPACE = re.compile(r"[ \t\r\n]*")
_CLOSERS = frozenset(")]}")


class Token(NamedTuple):
    """One token: ``kind`` is a group name of the lexer, or ``end``."""

    kind: str
    text: str
    at: int
    """Offset of its first character."""


class Cursor:
    """A position in a text; every method reads tokens or raises ``ParseError`` where it stands."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_CHARACTERS:
            raise ParseError(f"the text has {len(text)} characters; {MAX_CHARACTERS} are read")
        self.text = text
        self.comment = ""
        """The comment that followed the last token taken, without its ``#``."""
        self._next = self._scan(0)

    # -- tokens ----------------------------------------------------------------------------

    def _scan(self, at: int) -> Token:
        """The token at or after ``at``; remembers the last comment skipped on the way."""
        text = self.text
        self.comment = ""
        while True:
            space = _SPACE.match(text, at)
            at = space.end() if space else at
            match = _TOKEN.match(text, at)
            if match is None:
                if at >= len(text):
                    return Token("end", "", len(text))
                self.fail("this character starts nothing that can be read", at)
            kind = str(match.lastgroup)
            if kind != "comment":
                return Token(kind, match.group(), at)
            self.comment = self.comment or match.group()[1:]
            at = match.end()

    def peek(self) -> Token:
        """The next token, left in place."""
        return self._next

    def after(self) -> Token:
        """The token behind the next one, left in place."""
        kept = self.comment
        token = self._scan(self._next.at + len(self._next.text))
        self.comment = kept
        return token

    def take(self) -> Token:
        """The next token."""
        token = self._next
        self._next = self._scan(token.at + len(token.text))
        return token

    def at(self, *texts: str) -> bool:
        """Whether the next token is one of these names or signs."""
        return self._next.kind in ("name", "punct") and self._next.text in texts

    def accept(self, text: str) -> bool:
        """Takes the next token if it is ``text``."""
        found = self.at(text)
        if found:
            self.take()
        return found

    def expect(self, text: str) -> Token:
        """Takes ``text``, or fails."""
        if not self.at(text):
            self.fail(f"expected {text!r}")
        return self.take()

    def kind(self, kind: str, what: str) -> Token:
        """Takes a token of ``kind``, or fails saying that ``what`` was expected."""
        if self._next.kind != kind:
            self.fail(f"expected {what}")
        return self.take()

    def end(self) -> None:
        """Fails unless the text is used up."""
        if self._next.kind != "end":
            self.fail("expected nothing more")

    # -- values ----------------------------------------------------------------------------

    def name(self, what: str = "a name") -> str:
        """Takes an identifier."""
        return self.kind("name", what).text

    def string(self) -> str:
        """Takes a JSON string."""
        token = self.kind("string", "a string in double quotes")
        try:
            return str(json.loads(token.text))
        except ValueError:
            self.fail("this string has an escape that JSON does not know", token.at)

    def integer(self) -> int:
        """Takes an integer, which may be negative."""
        sign = -1 if self.accept("-") else 1
        token = self.kind("int", "an integer")
        if len(token.text) > 40:
            self.fail("this integer is too long", token.at)
        return sign * int(token.text)

    def dim(self) -> Dim:
        """Takes a dimension: everything up to a comma, bracket or brace of the level outside."""
        start, depth = self._next.at, 0
        while self._next.kind in ("name", "int", "ref", "punct"):
            if self._next.kind == "punct":
                text = self._next.text
                if depth == 0 and (text in _CLOSERS or text in (",", ":", "=", "{", "[")):
                    break
                depth += (text == "(") - (text == ")")
            self.take()
        source = self.text[start : self._next.at].split("#")[0].strip()
        if not source:
            self.fail("expected a size", start)
        try:
            return parse_dim(source)
        except ParseError as e:
            self.fail(str(e), start)

    def dtype(self) -> DType:
        """Takes an element type such as ``f32``."""
        token = self.kind("name", "an element type such as f32")
        try:
            return DType.named(token.text)
        except ParseError as e:
            self.fail(str(e), token.at)

    def type(self, depth: int = 0) -> Type:
        """Takes a type: ``f32[N, 3]``, ``seq(...)``, ``opt(...)``, ``map(i64, f32)`` and, within
        the first two, ``any f32`` or ``no f32``."""
        if depth > MAX_NESTING:
            self.fail(f"types are nested deeper than {MAX_NESTING}")
        if self.at("seq", "opt"):
            make = SequenceType if self.take().text == "seq" else OptionalType
            self.expect("(")
            elem = self.type(depth + 1)
            self.expect(")")
            return make(elem)
        if self.accept("map"):
            self.expect("(")
            key = self.dtype()
            self.expect(",")
            value = self.dtype()
            self.expect(")")
            return MapType(key, value)
        if self.at("any", "no"):
            if not depth:
                self.fail("only a container holds tensors without a rank")
            none = self.take().text == "no"
            return LooseTensor(self.dtype(), none)
        dtype = self.dtype()
        self.expect("[")
        shape: list[Dim] = []
        while not self.at("]"):
            shape.append(self.dim())
            if not self.accept(","):
                break
        self.expect("]")
        return TensorType(dtype, tuple(shape))

    # -- errors ----------------------------------------------------------------------------

    def fail(self, message: str, at: int | None = None) -> NoReturn:
        """Raises ``ParseError`` with line, column, the line and a caret."""
        raise error_at(self.text, self._next.at if at is None else at, message)


def error_at(text: str, at: int, message: str) -> ParseError:
    """A ``ParseError`` that shows where in ``text`` offset ``at`` is."""
    line_start = text.rfind("\n", 0, at) + 1
    line_end = text.find("\n", at)
    line_end = len(text) if line_end < 0 else line_end
    number = text.count("\n", 0, line_start) + 1
    column = at - line_start + 1
    cut = max(line_start, at - 60)
    shown = _printable(text[cut : min(line_end, at + 36)])
    caret = len(_printable(text[cut:at]))
    found = "the end of the text" if at >= len(text) else repr(text[at : at + 12].split("\n")[0])
    error = ParseError(
        f"line {number}, column {column}: {message}, found {found}\n  {shown}\n  {' ' * caret}^"
    )
    error.line, error.column = number, column  # type: ignore[attr-defined]
    return error


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
