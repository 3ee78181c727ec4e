"""All passes by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..ir.graph import Graph
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
from .manager import GraphPass, Pass, RulePass
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


def _conv_transpose(graph: Graph, fired: Counter[str], options: Sequence[str]) -> Graph:
    return conv_transpose_pass.lower_conv_transpose(graph, fired)


def _halves(graph: Graph, fired: Counter[str], options: Sequence[str]) -> Graph:
    return halves_pass.widen_products(graph, fired)


def _layout(graph: Graph, fired: Counter[str], options: Sequence[str]) -> Graph:
    return layout_pass.to_channels_last(graph, fired)


def _linear(graph: Graph, fired: Counter[str], options: Sequence[str]) -> Graph:
    return linear_pass.move_products(graph, fired)


def _planes(graph: Graph, fired: Counter[str], options: Sequence[str]) -> Graph:
    return planes_pass.flatten_planes(graph, fired)


def _quantized(graph: Graph, fired: Counter[str], options: Sequence[str]) -> Graph:
    return quantized_pass.cheap_quantization(graph, fired)


def _thin(graph: Graph, fired: Counter[str], options: Sequence[str]) -> Graph:
    return thin_pass.pad_thin_images(graph, fired)


def _split_concats(graph: Graph, fired: Counter[str], options: Sequence[str]) -> Graph:
    return split_concats_pass.split_concats(graph, fired)


def _order_sums(graph: Graph, fired: Counter[str], options: Sequence[str]) -> Graph:
    return order_sums_pass.order_sums(graph, fired)


def _brief_weights(graph: Graph, fired: Counter[str], options: Sequence[str]) -> Graph:
    return brief_weights_pass.round_weights(graph, fired)


def _expand(graph: Graph, fired: Counter[str], options: Sequence[str]) -> Graph:
    return expand_pass.expand(graph, options, fired)


def _wide_attention(graph: Graph, fired: Counter[str], options: Sequence[str]) -> Graph:
    return expand_pass.expand_wide_attention(graph, fired)


_ALL: tuple[Pass, ...] = (
    GraphPass("fold", _fold, "evaluates constant subgraphs and shape arithmetic, within bounds",
              options=("all",)),
    GraphPass("dce", _dce, "drops dead and duplicate nodes"),
    RulePass("canon", CANON, "arithmetic identities; cast, transpose, reshape, slice chains"),
    RulePass("fuse_affine", AFFINE, "constant scales and offsets into conv and dot"),
    RulePass("recognize", RECOGNIZE, "norms, softmax, GELU and attention from their parts"),
    GraphPass("siblings", _siblings, "parallel dots and convs of one value merged",
              options=("dot", "conv")),
    GraphPass("conv_transpose", _conv_transpose,
              "transposed convolutions as convolutions, but those whose phases have a kernel"),
    GraphPass("halves", _halves, "products of half-precision numbers done in float32"),
    GraphPass("layout", _layout, "image ops channels-last, transposes carried to the edges",
              post=(layout_pass.images_are_last,)),
    GraphPass("linear", _linear, "products over channels before resampling, in a row as one"),
    GraphPass("planes", _planes, "3-D convolutions within planes as convolutions of images"),
    GraphPass("thin", _thin, "padding of images with few channels as an op of its own"),
    GraphPass("quantized", _quantized,
              "limits of quantized values applied once, signed bytes stored as unsigned ones"),
    GraphPass("split_concats", _split_concats,
              "channels-last concatenations dissolved in convolutions, for less memory"),
    GraphPass("order_sums", _order_sums,
              "terms of sums in the order in which they are made, for less memory"),
    GraphPass("wide_attention", _wide_attention, "attention that has no kernel into core ops"),
    GraphPass("brief_weights", _brief_weights, "constant weights of dots rounded to bfloat16"),
    GraphPass("expand", _expand, "composites into core ops", options=expand_pass.COMPOSITES),
)
PASSES: dict[str, Pass] = {p.name: p for p in _ALL}
"""Every pass by name."""
RULES: dict[str, Rule] = {
    rule.name: rule for p in _ALL if isinstance(p, RulePass) for rule in p.rules
}
"""Every rule by name."""
assert len(RULES) == len({r for p in _ALL if isinstance(p, RulePass) for r in p.rules})
