"""All passes by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from ..ir.graph import Graph
from . import atrous as atrous_pass
from . import brief_weights as brief_weights_pass
from . import conv_transpose as conv_transpose_pass
from . import expand as expand_pass
from . import fold as fold_pass
from . import halves as halves_pass
from . import layout as layout_pass
from . import linear as linear_pass
from . import order_sums as order_sums_pass
from . import planes as planes_pass
from . import quantized as quantized_pass
from . import siblings as siblings_pass
from . import split_concats as split_concats_pass
from . import thin as thin_pass
from .manager import Check, GraphPass, Pass, RulePass
from .rule import Rule
from .rules import activations, arithmetic, attention, casts, convolution, movement, norms

CANON: tuple[Rule, ...] = (*arithmetic.RULES, *casts.RULES, *movement.RULES)
AFFINE: tuple[Rule, ...] = (
    *convolution.RULES,
    *(r for r in arithmetic.RULES if r.name in ("add_add", "mul_mul")),
)
RECOGNIZE: tuple[Rule, ...] = (*norms.RULES, *activations.RULES, *attention.RULES)


def _fold(graph: Graph, fired: Counter[str], options: Sequence[str]) -> Graph:
    return fold_pass.fold(graph, fired, "all" in options)


def _dce(graph: Graph, fired: Counter[str], options: Sequence[str]) -> Graph:
    return fold_pass.dce(graph)


def _siblings(graph: Graph, fired: Counter[str], options: Sequence[str]) -> Graph:
    return siblings_pass.merge_siblings(graph, fired, options or ("dot", "conv"))


def _expand(graph: Graph, fired: Counter[str], options: Sequence[str]) -> Graph:
    return expand_pass.expand(graph, options, fired)


def _plain(name: str, fn: Callable[[Graph, Counter[str]], Graph], doc: str,
           post: tuple[Check, ...] = ()) -> GraphPass:
    """A pass without options."""
    return GraphPass(name, lambda graph, fired, options: fn(graph, fired), doc, post=post)


_ALL: tuple[Pass, ...] = (
    GraphPass("fold", _fold, "evaluates constant subgraphs and shape arithmetic, within bounds",
              options=("all",)),
    GraphPass("dce", _dce, "drops dead and duplicate nodes"),
    RulePass("canon", CANON, "arithmetic identities; cast, transpose, reshape, slice chains"),
    RulePass("fuse_affine", AFFINE, "constant scales and offsets into conv and dot"),
    RulePass("recognize", RECOGNIZE, "norms, softmax, GELU and attention from their parts"),
    GraphPass("siblings", _siblings, "parallel dots and convs of one value merged",
              options=("dot", "conv")),
    _plain("conv_transpose", conv_transpose_pass.lower_conv_transpose,
           "transposed convolutions as convolutions, but those whose phases have a kernel"),
    _plain("halves", halves_pass.widen_products,
           "products of half-precision numbers done in float32"),
    _plain("layout", layout_pass.to_channels_last,
           "image ops channels-last, transposes carried to the edges",
           post=(layout_pass.images_are_last,)),
    _plain("linear", linear_pass.move_products,
           "products over channels before resampling, in a row as one"),
    _plain("planes", planes_pass.flatten_planes,
           "3-D convolutions within planes as convolutions of images"),
    _plain("atrous", atrous_pass.narrow_dilated,
           "convolutions without what only meets padding, dilated ones as dense ones"),
    _plain("thin", thin_pass.pad_thin_images,
           "padding of images with few channels as an op of its own"),
    _plain("quantized", quantized_pass.cheap_quantization,
           "limits of quantized values applied once, signed bytes stored as unsigned ones"),
    _plain("split_concats", split_concats_pass.split_concats,
           "channels-last concatenations dissolved in convolutions, for less memory"),
    _plain("order_sums", order_sums_pass.order_sums,
           "terms of sums in the order in which they are made, for less memory"),
    _plain("wide_attention", expand_pass.expand_wide_attention,
           "attention that has no kernel into core ops"),
    _plain("brief_weights", brief_weights_pass.round_weights,
           "constant weights of dots rounded to bfloat16"),
    GraphPass("expand", _expand, "composites into core ops", options=expand_pass.COMPOSITES),
)
PASSES: dict[str, Pass] = {p.name: p for p in _ALL}
"""Every pass by name."""
RULES: dict[str, Rule] = {
    rule.name: rule for p in _ALL if isinstance(p, RulePass) for rule in p.rules
}
"""Every rule by name."""
assert len(RULES) == len({r for p in _ALL if isinstance(p, RulePass) for r in p.rules})
