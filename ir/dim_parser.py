"""Reads the text of a dimension, such as ``2*N + max(H, (W)//(2))``: what ``str(dim)`` prints.

Recursive descent over the usual precedences; the functions of ``dims`` put the result into
canonical form. Nesting, powers and numbers are bounded, so that hostile text ends in an error.
"""

from __future__ import annotations

import re

from .dim_functions import bcast, dmax, dmin, floordiv, mod
from .dims import Dim, product, sym
from .errors import ParseError

_TOKEN = re.compile(r"\s*(?:(\d+)|([A-Za-z_][A-Za-z0-9_.]*)|(//|\*\*|[-+*%(),]))", re.ASCII)
_MOST_NESTING = 40
_MOST_DIGITS = 30
_MOST_POWER = 16


def parse_dim(text: str) -> Dim:
    """Reads what ``str(dim)`` printed; raises ``ParseError``."""
    return DimParser(text).whole()


class DimParser:
    """Recursive-descent parser of dimension text; nesting, powers and numbers are bounded."""

    def __init__(self, text: str) -> None:
        self.tokens: list[str] = []
        pos = 0
        text = text.rstrip()
        while pos < len(text):
            match = _TOKEN.match(text, pos)
            if not match:
                raise ParseError(f"not a dimension: {text[:80]!r}")
            self.tokens.append(match.group().strip())
            pos = match.end()
        self.at = 0
        self.depth = 0

    def whole(self) -> Dim:
        """The dimension that is all of the text."""
        value = self.sum()
        if self.peek():
            raise ParseError(f"unexpected {self.peek()[:40]!r} in a dimension")
        return value

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, expected: str | None = None) -> str:
        token = self.peek()
        if not token or (expected is not None and token != expected):
            raise ParseError(f"bad dimension near {token[:40]!r}, expected {expected or 'a value'}")
        self.at += 1
        return token

    def number(self) -> int:
        token = self.take()
        if not token.isdigit() or len(token) > _MOST_DIGITS:
            raise ParseError(
                f"bad dimension near {token[:40]!r}, expected a number of at most "
                f"{_MOST_DIGITS} digits"
            )
        return int(token)

    def sum(self) -> Dim:
        self.depth += 1
        if self.depth > _MOST_NESTING:
            raise ParseError(f"dimension text is nested deeper than {_MOST_NESTING}")
        sign = -1 if self.peek() == "-" else 1
        if sign < 0:
            self.take()
        total = self.term() * sign
        while self.peek() in ("+", "-"):
            total = total + self.term() if self.take() == "+" else total - self.term()
        self.depth -= 1
        return total

    def term(self) -> Dim:
        value = self.factor()
        while self.peek() in ("*", "//", "%"):
            op = self.take()
            right = self.factor()
            if op != "*" and isinstance(right, int) and right <= 0:
                raise ParseError(f"a dimension is divided by {right}")
            value = (
                value * right
                if op == "*"
                else floordiv(value, right)
                if op == "//"
                else mod(value, right)
            )
        return value

    def factor(self) -> Dim:
        value = self.primary()
        if self.peek() == "**":
            self.take()
            power = self.number()
            if power > _MOST_POWER:
                raise ParseError(f"a dimension is raised to {power}, {_MOST_POWER} is the most")
            value = product([value] * power)
        if isinstance(value, int) and abs(value) >= 10**_MOST_DIGITS:
            raise ParseError("a number in a dimension is too large")
        return value

    def primary(self) -> Dim:
        token = self.peek()
        if token == "(":
            self.take()
            value = self.sum()
            self.take(")")
            return value
        if token.isdigit():
            return self.number()
        self.take()
        if token in ("max", "min", "bcast") and self.peek() == "(":
            self.take("(")
            args = [self.sum()]
            while self.peek() == ",":
                self.take()
                args.append(self.sum())
            self.take(")")
            return {"max": dmax, "min": dmin, "bcast": bcast}[token](*args)
        return sym(token)
