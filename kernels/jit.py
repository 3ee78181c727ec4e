"""From generated kernel source to machine code, and from machine code to callable addresses.

``compile_source`` types the source with Numba's front end (``frontend``), hands the LLVM module to
one optimization pipeline (LLVM's O2 with loop and SLP vectorizers, its own target machine made from
the ``Target``, so foreign processors work as well) and returns a relocatable object.
``load_objects`` links objects into this process with LLVM's MCJIT; symbols that several kernels
share (micro-kernels) are resolved by name at that moment. Loading needs ``llvmlite.binding`` only:
Numba is imported the first time something has to be compiled.

One lock guards LLVM and Numba, since neither front end is thread-safe.
"""

from __future__ import annotations

import contextlib
import re
import struct
import threading
from collections.abc import Iterable, Iterator

import llvmlite.binding as llvm

from ..ir.errors import CompileError
from ..ir.target import Target

_LOCK = threading.RLock()
_MACHINES: dict[str, llvm.TargetMachine] = {}
_RUNTIME = ("memcpy", "memset", "memmove")
"""C library functions LLVM may call by itself; everything else must be known to be defined."""
_KNOWN = ("llvm.", "mk_")
"""Prefixes of LLVM's own functions and of micro-kernels, which the loader finds."""
_ELEMENTS = re.compile(r" = load (?!i64|<\d+ x i64>)|\bstore (?!i64|<\d+ x i64>)")
"""Accesses of LLVM IR to other memory than int64, which addresses are."""
_PRODUCT = re.compile(r" = mul [a-z ]*i64 ")
_TARGET = re.compile(r"\blabel %([\w.]+)")


def compile_source(
    source: str, symbol: str, target: Target, externals: Iterable[str] = ()
) -> bytes:
    """Compile ``def kernel(bufs, params, begin, end)`` to an object that defines ``symbol``.

    ``symbol`` gets the kernel ABI ``void(int64*, int64*, int64, int64)``. ``source`` may use the
    words of ``intrinsics``. ``externals`` are functions another object will define; calling any
    other function raises ``CompileError``, as does source that does not type.
    """
    with _LOCK:
        module = _module(lower(source, symbol, target))
        _optimize(module, target)
        return _emit(module, target, externals)


def compile_ir_text(
    llvm_ir: str, target: Target, externals: Iterable[str] = (), optimize: bool = True
) -> bytes:
    """The object of LLVM IR text; raises ``CompileError``.

    Without ``optimize`` the text goes straight to code generation: micro-kernels, written with
    explicit vectors, gain nothing from the pipeline, which more than doubles the time.
    """
    with _LOCK:
        module = _module(llvm_ir)
        if optimize:
            _optimize(module, target)
        return _emit(module, target, externals)


def lower(source: str, symbol: str, target: Target) -> str:
    """LLVM IR of a kernel source before optimization."""
    with _LOCK:
        from .frontend import lower_source  # the import of Numba

        return lower_source(source, symbol, target, data_layout(target))


def optimized_ir(text: str, target: Target) -> str:
    """LLVM IR after the pipeline, of LLVM IR before it (to read; what ``asm`` is made of)."""
    with _LOCK:
        module = _module(text)
        _optimize(module, target)
        return str(module)


def asm(source: str, symbol: str, target: Target) -> str:
    """Assembly of a kernel source, for people and tests."""
    return asm_of_ir(lower(source, symbol, target), target)


def asm_of_ir(text: str, target: Target) -> str:
    """Assembly of LLVM IR text, for people and tests."""
    with _LOCK:
        module = _module(text)
        _optimize(module, target)
        with _address_mode(module, target):
            return _machine(target).emit_assembly(module)


def data_layout(target: Target) -> str:
    """LLVM data layout string of the target."""
    with _LOCK:
        return str(_machine(target).target_data)


def _module(text: str) -> llvm.ModuleRef:
    try:
        module = llvm.parse_assembly(text)
        module.verify()
    except RuntimeError as error:
        raise CompileError(f"generated LLVM IR is not valid: {error}") from error
    return module


def _machine(target: Target) -> llvm.TargetMachine:
    """The LLVM target machine for ``target.isa``: position-independent, small code model."""
    machine = _MACHINES.get(target.isa)
    if machine is None:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        try:
            machine = llvm.Target.from_triple(target.triple).create_target_machine(
                cpu=target.cpu, features=target.features, opt=3, reloc="pic", codemodel="small"
            )
        except RuntimeError as error:
            message = f"LLVM has no code generator for {target.triple}: {error}"
            raise CompileError(message) from error
        machine.set_asm_verbosity(False)
        _MACHINES[target.isa] = machine
    return machine


def _optimize(module: llvm.ModuleRef, target: Target) -> None:
    """LLVM's default O2 pipeline with both vectorizers, once.

    What O3 adds (unswitching loops, mostly) took a third more time and sped no kernel up. Runtime
    unrolling is left out: the vectorizer's interleaving already hides latencies, and
    unrolled scalar remainders are half of the code that would have to be compiled.
    """
    options = llvm.create_pipeline_tuning_options(2)
    options.loop_vectorization = True
    options.slp_vectorization = True
    options.loop_interleaving = True
    options.loop_unrolling = False
    builder = llvm.create_pass_builder(_machine(target), options)
    builder.getModulePassManager().run(module, builder)


@contextlib.contextmanager
def _address_mode(module: llvm.ModuleRef, target: Target) -> Iterator[None]:
    """Code generation without loop strength reduction where it has nothing to do.

    The pass takes up to two thirds of the time of code generation. On x86 an address may be ``base
    + index * scale``, so it only gains where an innermost loop multiplies integers. LLVM has this
    switch per process only, so it is set back afterwards.
    """
    if target.arch != "x86_64" or _multiplies_in_loop(str(module)):
        yield
        return
    llvm.set_option("evonnx", "-disable-lsr=true")
    try:
        yield
    finally:
        llvm.set_option("evonnx", "-disable-lsr=false")


def _multiplies_in_loop(text: str) -> bool:
    """Whether a block that branches to itself contains an integer multiplication that counts.

    In a kernel around micro-kernels, a loop that calls one has an iteration for many products, and
    so has one that writes their rows' addresses with one multiplication each. With more it goes
    over taps: there the pass gains up to 2 % of a convolution of few channels."""
    around = "@mk_" in text
    for block in re.split(r"\n\n|\n(?=[\w.]+:)", text):
        products = len(_PRODUCT.findall(block))
        if products == 0 or around and "@mk_" in block:
            continue
        label = re.match(r"\s*([\w.]+):", block)
        if label is None or label[1] not in _TARGET.findall(block):
            continue
        if products > 1 or not around or _ELEMENTS.search(block):
            return True
    return False


def _emit(module: llvm.ModuleRef, target: Target, externals: Iterable[str]) -> bytes:
    allowed = {*_RUNTIME, *externals}
    foreign = {f.name for f in module.functions if f.is_declaration} - allowed
    if foreign := {name for name in foreign if not name.startswith(_KNOWN)}:
        raise CompileError(f"generated code calls unknown functions: {', '.join(sorted(foreign))}")
    try:
        with _address_mode(module, target):
            return _machine(target).emit_object(module)
    except RuntimeError as error:
        raise CompileError(f"LLVM could not emit an object for {target.name}: {error}") from error


class Loader:
    """Machine code linked into this process; it lives as long as the loader does."""

    def __init__(self, objects: Iterable[bytes]) -> None:
        """Link ``objects``; raises ``CompileError`` for a bad object or an undefined symbol."""
        data = list(objects)
        defined: set[str] = set()
        undefined: set[str] = set()
        for item in data:
            for name, is_defined in elf_symbols(item):
                (defined if is_defined else undefined).add(name)
        missing = {
            name
            for name in undefined - defined
            if name not in _RUNTIME and llvm.address_of_symbol(name) is None
        }
        if missing:  # LLVM would end the process
            raise CompileError(f"undefined symbols in objects: {', '.join(sorted(missing))}")
        self.symbols = frozenset(defined)
        """Names the objects define."""
        with _LOCK:
            llvm.initialize_native_target()
            llvm.initialize_native_asmprinter()
            machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(
                reloc="pic", codemodel="small", jit=True
            )
            self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
            for item in data:
                self._engine.add_object_file(llvm.ObjectFileRef.from_data(item))
            self._engine.finalize_object()

    def address(self, symbol: str) -> int:
        """Address of the function ``symbol``; raises ``CompileError`` if no object defines it."""
        if symbol not in self.symbols:
            raise CompileError(f"no loaded object defines {symbol!r}")
        with _LOCK:
            return int(self._engine.get_function_address(symbol))


def load_objects(objects: Iterable[bytes]) -> Loader:
    """Link relocatable objects into this process; see ``Loader``."""
    return Loader(objects)


def elf_symbols(data: bytes) -> Iterator[tuple[str, bool]]:
    """Global symbols of a 64-bit little-endian ELF object as ``(name, defined here)``.

    Raises ``CompileError`` where the bytes are not such an object or are cut off; layout after
    the System V ABI, chapter 4.
    """
    if data[:6] != b"\x7fELF\x02\x01":
        raise CompileError("not a 64-bit little-endian ELF object")
    try:
        (table,) = struct.unpack_from("<Q", data, 40)
        size, count = struct.unpack_from("<HH", data, 58)
        sections = [struct.unpack_from("<IIQQQQIIQQ", data, table + size * i) for i in range(count)]
        for _, kind, _, _, offset, length, link, _, _, entry in sections:
            if kind != 2:  # SHT_SYMTAB
                continue
            strings = sections[link][4]
            for at in range(offset, offset + length, entry):
                name_at, info, _, index, _, _ = struct.unpack_from("<IBBHQQ", data, at)
                if info >> 4 in (1, 2) and name_at:  # global or weak
                    end = data.index(b"\0", strings + name_at)
                    yield data[strings + name_at : end].decode("ascii"), index != 0
    except (struct.error, IndexError, ValueError, UnicodeDecodeError) as error:
        raise CompileError(f"damaged object file: {error}") from error
