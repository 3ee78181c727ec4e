"""Inputs for a model that nobody brought data for: random arrays of the declared types.

Every input draws from its own generator, seeded by (seed, name), so that one feed does not change
when another input is added or reordered. Floats are standard normal; integers are 0 or 1, which
is a legal token, type, mask, class or axis for every model seen, and 1 where there is one
element (a length, a rate, a step); text is the letter "a".
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.dim_values import evaluate
from ..ir.dims import free_symbols
from ..ir.errors import FeedError, quote
from ..ir.types import TensorType, Type

_ADDRESSES = 1 << 48
"""Addresses of a process, more or less."""


def concrete_shape(name: str, tensor: TensorType, dims: Mapping[str, int]) -> tuple[int, ...]:
    """Shape of input ``name`` with every symbol replaced by its size in ``dims``.

    Raises ``FeedError`` that lists the symbols ``dims`` does not give, and for more elements than
    memory has addresses.
    """
    symbols = {symbol for dim in tensor.shape for symbol in free_symbols(dim)}
    if missing := sorted(symbols - dims.keys()):
        raise FeedError(
            f"input {quote(name)} is {tensor}: no size given for "
            + ", ".join(quote(symbol) for symbol in missing)
            + f" (in a shell: --dim {missing[0]}=SIZE)"
        )
    shape = tuple(evaluate(dim, dict(dims)) for dim in tensor.shape)
    if math.prod(shape) >= _ADDRESSES:
        raise FeedError(f"input {quote(name)} is {tensor}: {list(shape)} has more elements than "
                        "memory has addresses")
    return shape


def random_feeds(
    inputs: Mapping[str, Type],
    dims: Mapping[str, int] | None = None,
    seed: int = 0,
    *,
    others: int | None = None,
) -> dict[str, np.ndarray]:
    """One array per input, by name; the same for the same types, ``dims`` and ``seed``.

    ``dims`` gives the sizes of symbolic dimensions, ``others`` that of every symbol not in it.
    Raises ``FeedError`` for a symbol without a size and for an input that is not a tensor.
    """
    feeds = {}
    sizes = dict(dims or {})
    if others is not None:
        for declared in inputs.values():
            for dim in getattr(declared, "shape", ()):
                sizes |= {s: others for s in free_symbols(dim) if s not in sizes}
    for name, declared in inputs.items():
        if not isinstance(declared, TensorType):
            raise FeedError(f"input {quote(name)} is {declared}: only tensors can be made up")
        shape = concrete_shape(name, declared, sizes)
        own = hashlib.sha256(f"{seed}:{name}".encode()).digest()
        feeds[name] = _draw(declared, shape, np.random.default_rng(list(own)))
    return feeds


def _draw(tensor: TensorType, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    kind = tensor.dtype.kind
    if kind == "s":
        return np.full(shape, "a", dtype=object)
    if kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if kind in "iu":
        if int(np.prod(shape)) == 1:
            return np.ones(shape, tensor.dtype.np)
        return rng.integers(0, 2, shape).astype(tensor.dtype.np)
    drawn = rng.standard_normal(shape)
    if kind == "c":
        drawn = drawn + 1j * rng.standard_normal(shape)
    return np.asarray(drawn).astype(tensor.dtype.np)


def read_feeds(
    texts: Sequence[str], inputs: Mapping[str, Type], dims: Mapping[str, int], seed: int
) -> dict[str, np.ndarray]:
    """Arrays for the inputs of a model from command-line texts.

    A text is ``NAME=FILE.npy``, ``NAME=random``, ``NAME=zeros``, ``NAME=ones``, ``NAME=<number>``
    (the whole tensor), ``FILE.npz`` (inputs by name) or ``random`` (every input not named
    otherwise). Sizes of symbolic dimensions come from ``dims``, then from the arrays read. Raises
    ``FeedError`` for an unknown name, an unreadable file or an input without a value.
    """
    given: dict[str, np.ndarray] = {}
    made: dict[str, str] = {}
    rest = False
    for text in texts:
        # A name may contain "=": the longest input name that fits is meant.
        name = max((n for n in inputs if text.startswith(f"{n}=")), key=len, default=None)
        value = text if name is None else text[len(name) + 1 :]
        if name is not None and value.endswith(".npy"):
            given[name] = _load(value)
        elif name is not None:
            made[name] = value
        elif text == "random":
            rest = True
        elif text.endswith(".npz"):
            given |= _load_all(text)
        else:
            raise FeedError(
                f"input {quote(text)}: no input of that name; there are "
                + (", ".join(quote(n) for n in inputs) or "none")
            )
    sizes = _measured(inputs, given) | dict(dims)
    if rest:
        made = {n: "random" for n in inputs if n not in given} | made
    drawn = random_feeds({n: inputs[n] for n in made}, sizes, seed)
    for name, value in made.items():
        given[name] = drawn[name] if value == "random" else _filled(name, value, drawn[name])
    return given


def read_constants(texts: Sequence[str]) -> dict[str, Any]:
    """Fixed values of inputs from command-line texts: ``NAME=FILE.npy``, or ``NAME=`` and a JSON
    number or list of numbers, which the importer gives the declared dtype. Raises ``FeedError``."""
    values: dict[str, Any] = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        if name and value.endswith(".npy"):
            values[name] = _load(value)
            continue
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = None
        if not name or not isinstance(values[name], (int, float, list)):
            raise FeedError(f"constant {quote(text)}: NAME=NUMBER, NAME=[NUMBER, ...] or"
                            " NAME=FILE.npy is needed")
    return values


def _filled(name: str, value: str, like: np.ndarray) -> np.ndarray:
    """An array like ``like`` full of the number that ``value`` names."""
    number = {"zeros": 0.0, "ones": 1.0}.get(value)
    try:
        return np.full_like(like, float(value) if number is None else number)
    except ValueError:
        raise FeedError(
            f"input {quote(name)}: {quote(value)} is not a .npy file, random, zeros, ones or a "
            "number"
        ) from None


def _measured(inputs: Mapping[str, Type], given: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Sizes of the plain symbols among the dimensions of the arrays at hand."""
    sizes = {}
    for name, array in given.items():
        declared = inputs.get(name)
        if isinstance(declared, TensorType) and declared.rank == array.ndim:
            for dim, size in zip(declared.shape, array.shape, strict=True):
                if str(dim) in free_symbols(dim):
                    sizes[str(dim)] = size
    return sizes


def _load(path: str) -> np.ndarray:
    try:
        loaded = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FeedError(f"cannot read {quote(path)}: {error}") from None
    if not isinstance(loaded, np.ndarray):
        raise FeedError(f"{quote(path)} does not hold one array")
    return loaded


def _load_all(path: str) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise FeedError(f"cannot read {quote(path)}: {error}") from None


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes ``arrays`` by name to an ``.npz`` file, or a single one to an ``.npy`` file.

    Any name is kept as it is (``np.savez`` gives some a meaning of their own); text becomes
    NumPy's fixed-width strings. Raises ``FeedError`` for another suffix, for several arrays in one
    ``.npy`` and for what is not an array (a sequence, a map).
    """
    if path.suffix not in (".npy", ".npz") or (path.suffix == ".npy" and len(arrays) != 1):
        raise FeedError(f"{quote(path)}: {len(arrays)} outputs need a .npz file")
    dense = {name: _storable(name, array) for name, array in arrays.items()}
    if path.suffix == ".npy":
        np.save(path, next(iter(dense.values())), allow_pickle=False)
        return
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in dense.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _storable(name: str, array: Any) -> np.ndarray:
    """``array`` in a form that NumPy stores without pickling."""
    if not isinstance(array, np.ndarray):
        raise FeedError(f"output {quote(name)} is a {type(array).__name__}: it has no array form")
    return array.astype(str) if array.dtype == object else array
