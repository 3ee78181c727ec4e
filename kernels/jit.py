"""From generated kernel source to machine code.

``compile_source`` types and lowers the source (``frontend``), hands the LLVM module to one
optimization pipeline (LLVM's O2 with loop and SLP vectorizers, its own target machine made from the
``Target``, so foreign processors work as well) and returns a relocatable object, which ``linker``
loads. Micro-kernels are LLVM IR already.

One lock guards LLVM, whose options are of the whole process.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterable, Iterator, Mapping

import llvmlite.binding as llvm

from ..ir.errors import CompileError
from ..ir.target import Target
from .linker import RUNTIME
from .micro.irtext import IN_ORDER

_LOCK = threading.RLock()
_MACHINES: dict[str, llvm.TargetMachine] = {}
_KNOWN = ("llvm.", "mk_")
"""Prefixes of LLVM's own functions and of micro-kernels, which the loader finds."""
_ELEMENTS = re.compile(r" = load (?!i64|<\d+ x i64>)|\bstore (?!i64|<\d+ x i64>)")
"""Accesses of LLVM IR to other memory than int64, which addresses are."""
_PRODUCT = re.compile(r" = mul [a-z ]*i64 ")
_TARGET = re.compile(r"\blabel %([\w.]+)")
_WINDOW, _UNASKED = 6, 4
"""Binary logarithms of the bytes that x86 processors take decoded instructions from at a time, and
of what LLVM by itself aligns innermost loops to."""


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
        from .frontend import lower_source  # micro-kernels do without

        return lower_source(source, symbol, target, data_layout(target))


def annotated(source: str, target: Target) -> str:
    """A kernel source with a comment behind each loop: whether it becomes vectors, or why it is
    left to LLVM."""
    with _LOCK:
        from .frontend import loop_notes

        notes = loop_notes(source, target, data_layout(target))
    return "\n".join(f"{line}  # {notes[k]}" if k in notes else line
                     for k, line in enumerate(source.split("\n"), 1))


def optimized_ir(text: str, target: Target) -> str:
    """LLVM IR after the pipeline, of LLVM IR before it (to read; what ``asm`` is made of)."""
    with _LOCK:
        module = _module(text)
        _optimize(module, target)
        return str(module)


def asm(source: str, symbol: str, target: Target) -> str:
    """Assembly of a kernel source, for people and tests."""
    return asm_of_ir(lower(source, symbol, target), target)


def asm_of_ir(text: str, target: Target, optimize: bool = True) -> str:
    """Assembly of LLVM IR text, for people and tests; ``optimize`` as of ``compile_ir_text``."""
    with _LOCK:
        module = _module(text)
        if optimize:
            _optimize(module, target)
        with _switches(module, target):
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
        if target.triple == llvm.get_process_triple():  # the others are 8 MB of LLVM's own
            llvm.initialize_native_target()
            llvm.initialize_native_asmprinter()
        else:
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
def _switches(module: llvm.ModuleRef, target: Target) -> Iterator[None]:
    """Code generation with the passes that a module needs.

    Loop strength reduction takes up to two thirds of the time of code generation. On x86 an address
    may be ``base + index * scale``, so it only gains where an innermost loop multiplies integers.
    The scheduler of machine instructions is left out where a function asks for that
    (``irtext.IN_ORDER``). Innermost loops of x86 code begin where a window of the cache of decoded
    instructions does: one of a few instructions that lies across two windows takes two cycles for
    each iteration instead of one. LLVM has these switches per process only, so they are set back
    afterwards.
    """
    text = str(module)
    switches: dict[str, tuple[str | int, str | int]] = {}
    if target.arch == "x86_64":
        switches["x86-experimental-pref-innermost-loop-alignment"] = _WINDOW, _UNASKED
        if not _multiplies_in_loop(text):
            switches["disable-lsr"] = "true", "false"
    if IN_ORDER in text:
        switches["enable-misched"] = "false", "true"
    _set({name: value for name, (value, _) in switches.items()})
    try:
        yield
    finally:
        _set({name: usual for name, (_, usual) in switches.items()})


def _set(switches: Mapping[str, str | int]) -> None:
    for name, value in switches.items():
        llvm.set_option("evonnx", f"-{name}={value}")


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
    allowed = {*RUNTIME, *externals}
    foreign = {f.name for f in module.functions if f.is_declaration} - allowed
    if foreign := {name for name in foreign if not name.startswith(_KNOWN)}:
        raise CompileError(f"generated code calls unknown functions: {', '.join(sorted(foreign))}")
    try:
        with _switches(module, target):
            return _machine(target).emit_object(module)
    except RuntimeError as error:
        raise CompileError(f"LLVM could not emit an object for {target.name}: {error}") from error


class LlvmLoader:
    """Objects linked by LLVM's MCJIT: a ``linker.Loader``."""

    def __init__(self, objects: Iterable[bytes], symbols: frozenset[str]) -> None:
        """``symbols``: what the objects define. All others must be known to be defined in this
        process: at an undefined one LLVM would end it."""
        self.symbols = symbols
        with _LOCK:
            llvm.initialize_native_target()
            llvm.initialize_native_asmprinter()
            machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(
                reloc="pic", codemodel="small", jit=True
            )
            self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
            for item in objects:
                self._engine.add_object_file(llvm.ObjectFileRef.from_data(item))
            self._engine.finalize_object()

    def address(self, symbol: str) -> int:
        """See ``linker.Loader``."""
        if symbol not in self.symbols:
            raise CompileError(f"no loaded object defines {symbol!r}")
        with _LOCK:
            return int(self._engine.get_function_address(symbol))
