"""The roofline plot of a profile: every group a dot under the roofs of the target.

The horizontal axis is operational intensity (operations per byte that enters or leaves), the
vertical one performance, both logarithmic. A roof is the bandwidth of one memory up to the peak;
the area of a dot is the part of the time that the group takes. Matplotlib draws it, without a
display.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.errors import OptionError, quote
from ..ir.target import Target

if TYPE_CHECKING:
    from .profiling import Profile

_COLORS = {"loops": "tab:blue", "contract": "tab:orange", "opaque": "tab:green"}
_LABELS = 8
"""Slowest groups that are named."""


def draw(profile: Profile, path: str | os.PathLike[str]) -> None:
    """Writes the plot; the ending of ``path`` names the format. Raises ``OptionError`` where
    Matplotlib is missing, the format is unknown or the file cannot be written."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OptionError("plots are drawn by Matplotlib, which is not installed: pip install "
                          f"'evonnx[plots]' ({error})") from None
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.add_subplot()
    roofs(axes, profile.target, profile.threads, _span(profile))
    _dots(axes, profile)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=10)
    axes.set_xlabel("operations per byte")
    axes.set_ylabel("GFLOP/s")
    axes.set_title(f"{profile.target.name}, {profile.threads} threads, "
                   f"{profile.call * 1e3:.3g} ms per call", parse_math=False)  # fmt: skip
    axes.grid(which="both", alpha=0.2)
    axes.legend(loc="lower right")
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise OptionError(f"plot {quote(path)}: {quote(error, 200)}") from None


def _span(profile: Profile) -> tuple[float, float]:
    """Intensities that are shown."""
    found = [g.flops / g.nbytes for g in profile.groups if g.flops and g.nbytes]
    return min([0.1, *found]) / 2, max([64.0, *found]) * 2


def roofs(axes: Any, target: Target, threads: int, span: tuple[float, float]) -> None:
    """Draws the roofs of a machine, in GFLOP/s, over the intensities ``span``."""
    at = np.geomspace(*span, 200)
    peak = target.flops * threads
    rates = {
        "L2": target.l2_rate * threads,
        "L3": min(target.l3_rate * threads, target.l3_rate_all),
        "memory": min(target.dram_rate * threads, max(target.dram_rate_all, target.dram_rate)),
    }
    for (name, rate), style in zip(rates.items(), (":", "--", "-"), strict=True):
        axes.plot(at, np.minimum(at * rate, peak) / 1e9, style, color="black", lw=1,
                  label=f"{name} {rate / 1e9:.3g} GB/s")  # fmt: skip


def _dots(axes: Any, profile: Profile) -> None:
    shown = [g for g in profile.groups if g.flops and g.nbytes]
    total = max(profile.kernels, 1e-12)
    for kind in dict.fromkeys(g.implementation for g in shown):
        mine = [g for g in shown if g.implementation == kind]
        axes.scatter([g.flops / g.nbytes for g in mine], [g.flop_rate / 1e9 for g in mine],
                     s=[12 + 1500 * g.seconds / total for g in mine], alpha=0.6,
                     color=_COLORS.get(kind, "tab:gray"), label=kind)  # fmt: skip
    for g in sorted(shown, key=lambda g: -g.seconds)[:_LABELS]:
        axes.annotate(g.name, (g.flops / g.nbytes, g.flop_rate / 1e9), fontsize=8,
                      parse_math=False)  # fmt: skip
