"""Options of ``compile`` drawn at random, as plain values that a saved example keeps.

What names sizes, bytes or shapes of one model is drawn as a word (``"fix": "sizes"``,
``"limit": 0.7``) and becomes arguments only when a model is at hand (``asked``), so that the
options of an example still mean something when its model is made smaller. What cannot go together
(a greedy rule takes no objective, measuring no limit) is not drawn together; all else is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...search.registry import MODELS, STRATEGIES
from ...search.settings import OBJECTIVES, RULES, SEARCHES

_PEERS = tuple(n for n in STRATEGIES.shipped if n.partition("-")[0] in ("optuna", "pymoo"))
"""Strategies of other packages: slow, and not installed everywhere, so not drawn."""
SEARCHED = tuple(dict.fromkeys((*SEARCHES, *(n for n in STRATEGIES.shipped if n not in _PEERS))))
"""Searches that are drawn."""
FIXED = ("sizes", "one size", "shapes", "renamed", "constants")
"""How a model's open sizes are fixed or renamed, or one of its inputs made a constant."""
AFTER = ("schedule", "again", "save", "recompile", "profile", "gantt", "report", "explain")
"""What is done with the compiled model."""
_TARGETS = ("avx2", "generic")


def draw(rng: np.random.Generator) -> dict[str, Any]:
    """Options: arguments of ``compile`` as they are, and ``fix``, ``limit``, ``expect`` and
    ``after``, which ``asked`` reads."""
    found: dict[str, Any] = {"search": str(rng.choice(SEARCHED)),
                             "threads": int(rng.integers(1, 4)), "seed": int(rng.integers(1000))}
    free = found["search"] not in ("none", *RULES)
    if free and rng.random() < 0.5:
        found["objective"] = str(rng.choice(OBJECTIVES))
    if free and rng.random() < 0.25:
        found["limit"] = round(float(rng.uniform(0.3, 1.2)), 2)
    if found.get("objective", "time") == "time" and "limit" not in found and rng.random() < 0.04:
        found["measure"] = 0.1
    if free:
        found["budget"] = int(rng.choice([1, 20, 300, 2000]))
    if rng.random() < 0.5:
        found["cost_model"] = str(rng.choice(MODELS.shipped))
    if rng.random() < 0.4:
        found["target"] = str(rng.choice(_TARGETS))
    if rng.random() < 0.4:
        found["fix"] = str(rng.choice(FIXED))
    if rng.random() < 0.4:
        found["expect"] = int(rng.integers(2))
    found["after"] = sorted(str(a) for a in rng.choice(AFTER, 2, replace=False))
    return found
