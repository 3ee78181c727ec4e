"""Rewriting rules by subject; each file exports ``RULES``.

The contract of every rule: directional, never worse, sound for every input the pattern admits (NaN,
infinities, signed zeros, empty tensors, integer wrap-around). A condition that cannot be decided
means no. Rules marked ``exact=False`` hold up to rounding.
"""
