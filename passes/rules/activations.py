"""Activations in their spellings: sigmoid, relu, GELU (error function and tanh form).

Products are matched in any order and grouping, so ``0.5 * x * (1 + erf(x / sqrt 2))`` needs one
rule, not a dozen. Source of both GELU forms: Hendrycks and Gimpel 2016.
"""

from __future__ import annotations

from ..rule import Rule, floats

_F = (floats("x"),)

RULES: tuple[Rule, ...] = (
    # 1 / (1 + e^-x) = sigmoid(x); a quotient of 1 is a reciprocal by then (``one_over``)
    Rule("sigmoid_reciprocal", "reciprocal(exp(neg(x)) + 1)", "sigmoid(x)", when=_F, exact=False),
    # (1 + tanh(x / 2)) / 2 = sigmoid(x)
    Rule("sigmoid_tanh", "prod(0.5, tanh(prod(x, 0.5)) + 1)", "sigmoid(x)", when=_F, exact=False),
    # max(x, 0) = relu(x); which zero the larger of -0.0 and 0.0 is, is not specified
    Rule("relu_max", "max(x, 0)", "relu(x)", exact=False),
    # relu(relu(x)) = relu(x)
    Rule("relu_relu", "relu(relu(x))", "relu(x)", shared=True),
    # x Phi(x) = x (1 + erf(x / sqrt 2)) / 2
    Rule("gelu_erf", "prod(x, 0.5, erf(prod(x, 0.7071067811865476)) + 1)",
         "gelu(x, approximate='none')", when=_F, exact=False),
    # x Phi(x) = x erfc(-x / sqrt 2) / 2
    Rule("gelu_erfc", "prod(x, 0.5, erfc(prod(x, -0.7071067811865476)))",
         "gelu(x, approximate='none')", when=_F, exact=False),
    # 1 + erf(x) = erfc(-x)
    Rule("one_plus_erf", "erf(x) + 1", "erfc(neg(x))", when=_F, exact=False),
    # x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2
    Rule("gelu_tanh",
         "prod(x, 0.5, tanh(prod(0.7978845608028654, x + prod(0.044715, x, x, x))) + 1)",
         "gelu(x, approximate='tanh')", when=_F, exact=False),
    # x (1 + tanh(sqrt(2 / pi) x (1 + 0.044715 x^2))) / 2
    Rule("gelu_tanh_factored",
         "prod(x, 0.5, tanh(prod(0.7978845608028654, x, prod(0.044715, x, x) + 1)) + 1)",
         "gelu(x, approximate='tanh')", when=_F, exact=False),
)
