"""Differential fuzzing of whole graphs: random models, compiled, against references and peers.

``sketch`` draws typed values and nodes, the makers (``basic``, ``movement``, ``reduce``,
``linear``, ``control``, ``idioms``) draw operators and the spellings that rules look for,
``generate`` turns a seed into a model with inputs, ``case`` checks it, ``judge`` says what is an
error, ``shrink`` makes a failing model small, ``corpus`` keeps it as text, ``campaign`` runs many.

    python -m evonnx.bench.fuzz 1000              # a thousand graphs; failures go to a folder
    python -m evonnx.bench.fuzz --replay FILE     # one saved example
    python -m evonnx.bench.fuzz --seed 4711       # one seed, shrunk if it fails
    python -m evonnx.bench.fuzz 1000 --broken     # models with faults put in

The generator is driven by a seed, not by Hypothesis, and failures are shrunk on the graph. A draw
here depends on the shapes and types of all draws before it, so a shrinker of choices, as Hypothesis
has it, draws everything after the changed choice anew and seldom keeps the failure; leaving out
nodes keeps it nearly always. And what is kept for the test suite is then a model, which stays the
same when the generator changes, not a list of choices, which does not.
"""
