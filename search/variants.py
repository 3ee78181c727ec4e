"""Which other variants of groups a search is offered.

The costs of groups add up, and all variants of a group write the same: in any partition the
cheapest of them is the best one. So of each candidate only two are handed on, the one that needs no
settings (which stays where costs are equal) and the cheapest of the others, if the cost model sees
it ``GAIN`` cheaper: less than that it cannot tell apart. The search weighs them jointly with
fusion: another grouping has another epilogue, other rows, another best variant.

Priced are, first, every method (Winograd's or the direct sum, and products of groups where windows
go without saying) in panels of every width, heights fitting; then, of the best of these, a few
heights of micro-tiles, and of the best of those, blocks of a few sizes; of each side of Winograd's
squares by itself, since small images have so few squares that their blocks decide. The chunks of
long sums are not varied: measured, they lie within the noise of what ``ir.variants.tiling`` takes
unasked.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..ir.elements import Refused
from ..ir.errors import EvonnxError
from ..ir.graph import Graph
from ..ir.schedule import Schedule
from ..ir.target import Target
from ..ir.variants import (
    Form,
    Variant,
    check_variant,
    fits_lanes,
    in_windows,
    micro_tile,
    separable_tiling,
    tiling,
    values,
)
from .cost import GroupCost, schedule_cost
from .models import Context, CostModel
from .models.counting import Counted

SET = ("product", "separable")
"""Forms of groups that are offered in other variants."""
GAIN = 0.97
"""Part of the cost of a group without settings that another variant may take."""
LINES = (1, 2, 4, 8)
"""Lines of pixels in a tile of two convolutions that are tried."""
BLOCKS = (1, 2, 4, 8)
"""Micro-tiles of rows in a parallel tile that are tried."""
HEIGHTS = (4, 6, 8, 10, 12, 14)
"""Rows of micro-tiles that are tried."""
ORDER = ("window", "winograd", "columns", "rows", "depth", "block", "over", "lines", "unroll")
"""Settings of a variant in the order of their decisions."""
DEAR = 1.4
"""Price of a variant that is not worth timing, in that of the cheapest."""


def better(costs: Sequence[GroupCost], sizes: Mapping[str, int], model: CostModel,
           context: Context) -> list[GroupCost | None]:
    """For each group the cheapest other variant at ``sizes``, where one is ``GAIN`` cheaper."""
    counted = {k: known for k, c in enumerate(costs) if _offered(c)
               and (known := _counted(c, sizes, context)) is not None}
    best: dict[int, dict[int | None, tuple[float, Variant]]] = {}
    first = _priced([(k, known, costs[k].variant) for k, known in counted.items()], model, context)
    for k, price, variant in first:
        best[k] = {None: (price, variant)}
    limit = {k: price * GAIN for k, price, _ in first}
    for further in (_methods, _heights, _blocks):
        tried = [(k, counted[k], v) for k, sides in best.items() for _, given in sides.values()
                 for v in further(_form(costs[k]), given, context.target)]
        for k, price, variant in _priced(tried, model, context):
            side = dict(variant).get("winograd")
            if side not in best[k] or price < best[k][side][0]:
                best[k][side] = price, variant
    found: list[GroupCost | None] = [None] * len(costs)
    for k, sides in best.items():
        price, variant = min(sides.values(), key=lambda item: item[0])
        found[k] = replace(costs[k], variant=variant) if price < limit[k] else None
    return found


def ranked(cost: GroupCost, sizes: Mapping[str, int], model: CostModel, context: Context
           ) -> list[tuple[float, Variant]]:
    """(price, settings) of the variants of one group that are tried, and of its own, cheapest
    first, of equal ones the one with fewer settings; only its own where nothing can be set."""
    every = dict.fromkeys(((), *tried(cost, context.target), cost.variant))
    found = [(price, variant) for _, price, variant in _all_priced(
        cost, every, sizes, model, context)]
    return sorted(found, key=lambda item: (item[0], len(item[1]), item[1]))


def tried(cost: GroupCost, target: Target) -> list[Variant]:
    """The variants of a group besides the one without settings that are priced."""
    if not _offered(cost):
        return []
    form = _form(cost)
    methods = _methods(form, (), target)
    return methods + [v for further in (_heights, _blocks) for m in ((), *methods)
                      for v in further(form, m, target)]


def every_setting(cost: GroupCost, target: Target) -> list[Variant]:
    """``tried``, and depthwise windows by table."""
    product = None if cost.work is None else cost.work.product
    if product is None:
        return []
    return tried(cost, target) + [
        (("window", w),) for w in values(product.form, target).get("window", ())]


def worth_timing(cost: GroupCost, sizes: Mapping[str, int], model: CostModel, context: Context,
                 known: Collection[Variant], most: int) -> list[Variant]:
    """The ``most`` variants of a group that the model sees cheapest, besides those ``known`` and
    what does the same as one of these: of those that are tried, and of the neighbors of ``cost`` as
    it is, which differ from it in one setting. None that the model sees ``DEAR`` times as dear as
    the cheapest."""
    if cost.work is None or cost.work.product is None:
        return []
    form, target = _form(cost), context.target
    done = {_effect(form, target, v) for v in known}
    others: dict[Any, Variant] = {}
    for v in (*every_setting(replace(cost, variant=()), target), *_neighbors(cost, target)):
        others.setdefault(_effect(form, target, v), v)
    priced = _all_priced(cost, others.values(), sizes, model, context)
    limit = DEAR * min((price for _, price, _ in priced), default=0.0)
    ranked_ones = sorted(priced, key=lambda item: (item[1], len(item[2])))
    found = [v for _, price, v in ranked_ones if price <= limit
             and _effect(form, target, v) not in done]
    return found[:most]


def _effect(form: Form, target: Target, variant: Variant) -> Any:
    """What a variant makes of a kernel; equal where one says what goes without saying."""
    given = dict(variant)
    if form.kind == "separable":
        return separable_tiling(form, target, given)
    if form.kind == "depthwise":
        return variant
    windows = in_windows(form, target, given)
    return windows or tiling(form, target, given)


def _neighbors(cost: GroupCost, target: Target) -> list[Variant]:
    """The variants that differ from a group's own in one setting, by one step."""
    form, own = _form(cost), dict(cost.variant)
    if form.kind == "depthwise" or in_windows(form, target, own):
        return []
    if form.kind == "separable":
        lines, _ = separable_tiling(form, target, own)
        return [(("lines", n),) for n in (lines - 1, lines + 1, lines // 2, lines * 2)
                if n in values(form, target)["lines"]]
    now = tiling(form, target, own)
    allowed, lanes = values(form, target, own), target.lanes(32)
    steps = {
        "rows": [now.rows + d for d in (-2, -1, 1, 2)],
        "columns": [(now.panel + d) * lanes for d in (-1, 1)],
        "block": [now.block // 2, now.block * 2] if now.block else list(BLOCKS),
    }
    found = []
    for name, near in steps.items():
        rest = [s for s in cost.variant if s[0] != name]
        found += [_in_order([*rest, (name, v)]) for v in near if v in allowed.get(name, ())]
    return [v for v in found if _fits(form, target, v)]


def _in_order(settings: Sequence[tuple[str, int]]) -> Variant:
    """Settings in the order in which this module names them."""
    return tuple(sorted(settings, key=lambda s: ORDER.index(s[0])))


def _fits(form: Form, target: Target, variant: Variant) -> bool:
    try:
        check_variant(form, target, variant)
    except Refused:
        return False
    return True


def with_variants(graph: Graph, schedule: Schedule, sizes: Mapping[str, int], model: CostModel,
                  context: Context) -> Schedule:
    """The schedule with the variant of each group that a search would take for it."""
    better_ones = better(schedule_cost(graph, schedule), sizes, model, context)
    return replace(schedule, groups=tuple(
        g if other is None else replace(g, variant=other.variant)
        for g, other in zip(schedule.groups, better_ones, strict=True)))


def _offered(cost: GroupCost) -> bool:
    """Whether a group is offered in other variants."""
    return (cost.work is not None and cost.work.product is not None
            and cost.work.product.form.kind in SET)


def _counted(cost: GroupCost, sizes: Mapping[str, int], context: Context) -> Counted | None:
    """The group at ``sizes``; None where these do not go together."""
    try:
        return Counted(cost, sizes, context.target)
    except EvonnxError:
        return None


def _all_priced(cost: GroupCost, variants: Iterable[Variant], sizes: Mapping[str, int],
                model: CostModel, context: Context) -> list[tuple[int, float, Variant]]:
    """(number, price, variant) of what can be priced of one group's ``variants``."""
    counted = _counted(cost, sizes, context)
    return [] if counted is None else _priced(
        [(k, counted, v) for k, v in enumerate(variants)], model, context)


def _priced(groups: Iterable[tuple[int, Counted, Variant]], model: CostModel, context: Context
            ) -> list[tuple[int, float, Variant]]:
    """(number, price, variant) of what can be priced."""
    found, numbers = [], []
    for k, counted, variant in groups:
        try:
            numbers.append(counted.facts(variant))
        except EvonnxError:  # the sizes counted do not go together
            continue
        found.append((k, variant))
    prices = model.costs(numbers, context).tolist() if numbers else []
    return [(k, price, variant) for (k, variant), price in zip(found, prices, strict=True)]


def _form(cost: GroupCost) -> Form:
    assert cost.work is not None and cost.work.product is not None
    return cost.work.product.form


def _methods(form: Form, given: Variant, target: Target) -> list[Variant]:
    """Every method in panels of every width, or every number of lines; what goes without saying is
    not said."""
    if form.kind == "separable":
        return [(("lines", n),) for n in LINES]
    products = (("window", 0),) if fits_lanes(form, target) else ()
    allowed = values(form, target, dict(products))
    _, full, lanes = micro_tile(target)
    usual = full * lanes
    methods = allowed["winograd"] if len(allowed["winograd"]) > 1 else (None,)
    found = []
    for method in methods:
        for width in allowed["columns"]:
            said = products if method is None else (*products, ("winograd", method))
            found.append((*said, *((("columns", width),) if width != usual else ())))
    return [v for v in found if v]


def _heights(form: Form, given: Variant, target: Target) -> list[Variant]:
    """Other heights; of Winograd's products, asked for or not, none: what the model promises them
    is not there."""
    said = dict(given)
    if form.kind == "separable" or in_windows(form, target, said) or tiling(
            form, target, said).winograd:
        return []
    allowed = values(form, target, said)["rows"]
    return [(*given, ("rows", h)) for h in HEIGHTS if h in allowed]


def _blocks(form: Form, given: Variant, target: Target) -> list[Variant]:
    if form.kind == "separable" or in_windows(form, target, dict(given)):
        return []
    return [(*given, ("block", b)) for b in BLOCKS]
