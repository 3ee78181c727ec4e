"""Alias scopes and access groups: tell LLVM which memory accesses of a kernel can never meet.

Every pointer of generated source carries a tag (a small integer). Accesses under different tags are
declared disjoint by LLVM's scoped alias metadata: each is put into its tag's scope and marked
``noalias`` against all other scopes of the kernel. So vectorized loops need neither run-time
overlap checks nor scalar twins. Which other tags exist is known when the whole kernel is lowered;
``close_scopes`` fills the lists then.

Accesses under one tag may meet. Where iterations of a loop are known not to touch what others write
(``nest.Loop.independent``), its accesses are put into the kernel's access group, which the loop's
identifier lists as parallel (``llvm.loop.parallel_accesses``).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir


def mark(builder: ir.IRBuilder, access: Any, tag: int) -> Any:
    """Put a load or store into the scope of ``tag``; returns ``access``.

    Under plain ``numba.njit`` nobody calls ``close_scopes``: then nothing is marked.
    """
    module = builder.module
    if not hasattr(module, "evonnx_target"):
        return access
    scopes = getattr(module, "evonnx_scopes", None)
    if scopes is None:
        module.evonnx_scopes = scopes = {}
        module.evonnx_domain = module.add_metadata([ir.MetaDataString(module, "kernel")])
    if tag not in scopes:
        label = ir.MetaDataString(module, f"buffer {tag}")
        scope = module.add_metadata([label, module.evonnx_domain])
        others = ir.values.MDValue(module, [label], name=str(len(module.metadata)))
        scopes[tag] = (scope, module.add_metadata([scope]), others)
    _, own, others = scopes[tag]
    access.set_metadata("alias.scope", own)
    access.set_metadata("noalias", others)
    if getattr(module, "evonnx_parallel", False):
        access.set_metadata("llvm.access.group", _group(module))
    return access


class _Distinct(ir.values.MDValue):
    """A metadata node that is equal to no other one."""

    def descr(self, buf: Any) -> None:
        buf += ("distinct !{}", "\n")


def _group(module: ir.Module) -> Any:
    """The access group of the module."""
    if not hasattr(module, "evonnx_group"):
        module.evonnx_group = _Distinct(module, (), name=str(len(module.metadata)))
    return module.evonnx_group


def parallel_accesses(module: ir.Module) -> Any:
    """What the identifier of a loop says whose accesses were marked while ``evonnx_parallel`` was
    set."""
    return module.add_metadata([ir.MetaDataString(module, "llvm.loop.parallel_accesses"),
                                _group(module)])


def close_scopes(module: ir.Module) -> None:
    """Complete the ``noalias`` lists of all tags the module uses."""
    scopes = getattr(module, "evonnx_scopes", {})
    for tag, (_, _, others) in scopes.items():
        others.operands = tuple(scope for other, (scope, _, _) in scopes.items() if other != tag)
