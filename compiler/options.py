"""The arguments of ``compile``, checked: each function answers the value to use or raises.

What a caller got wrong is an ``OptionError`` (a schedule: ``ScheduleError``), raised before any
work is done, that names the argument, what was given and what would do.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ir.elements import Refused
from ..ir.errors import OptionError, ParseError, ScheduleError, quote
from ..ir.graph import Graph, Node, Value
from ..ir.groups import extract
from ..ir.schedule import FUSED, Group, Schedule, check_order, parse_schedule
from ..ir.target import Target
from ..ir.variants import Form, check_variant, form_of
from ..runtime.cache import ObjectCache
from ..runtime.machine import KnownMachine
from ..runtime.store import ProgramCache
from .request import Progress

if TYPE_CHECKING:
    from ..passes.manager import PassReport

ROUNDING = "brief_weights"
"""The pass that rounds weights."""
MAX_THREADS = 1024
"""More threads than this are taken for a mistake."""
MAX_ROUNDS = 1_000_000
"""More rounds of a measurement than this are taken for a mistake."""

Pathlike = str | os.PathLike[str]


def machine_of(given: object) -> Target:
    """A ``Target``, from itself, the name of a preset, or the path of a target file; it may be a
    machine to think about only."""
    if isinstance(given, Target):
        return given
    if isinstance(given, (str, os.PathLike)):
        return _named_target(given)
    raise OptionError(f"target: a name, a file or a Target, not {type(given).__name__}")


def target_of(given: object) -> Target:
    """A ``Target`` that code is to run on, as ``machine_of`` finds it."""
    found = machine_of(given)
    if not found.runs_here():
        raise OptionError(f"target {quote(found.name)} ({found.isa[:80]}) needs instructions that "
                          "this machine lacks: code for it could not be run here")
    return found


def _named_target(given: Pathlike) -> Target:
    path = Path(given)
    if path.suffix or path.is_file():
        try:
            return Target.parse(path.read_text("utf-8"))
        except OSError as error:
            raise OptionError(f"target file {quote(given)}: {error.strerror}") from None
        except (ParseError, UnicodeDecodeError) as error:
            raise OptionError(f"target file {quote(given)}: {error}") from None
    try:
        return Target.named(str(given))
    except KeyError as error:
        raise OptionError(f"target: {error.args[0]}, or the path of a target file") from None


def threads_of(given: object) -> int | None:
    """A number of threads; None stays None (the cores this process may use)."""
    return None if given is None else _count_of("threads", given, MAX_THREADS)


def rounds_of(given: object) -> int:
    """How often something is measured."""
    return _count_of("rounds", given, MAX_ROUNDS)


def _count_of(what: str, given: object, most: int) -> int:
    try:
        if isinstance(given, bool):
            raise TypeError
        count = operator.index(given)  # type: ignore[arg-type]
    except TypeError:
        raise OptionError(f"{what}: a whole number, not {quote(given)}") from None
    if not 1 <= count <= most:
        raise OptionError(f"{what}: 1 to {most}, not {count}")
    return count


def caches_of(given: object) -> tuple[ObjectCache | None, ProgramCache | None]:
    """The caches of objects and of programs: True the default folder, False none, a path that
    folder. Where there is one, it says what machine this is."""
    if given is False or given is None:
        return None, None
    if given is True:
        KnownMachine().recall()
        return ObjectCache(), ProgramCache()
    if not isinstance(given, (str, os.PathLike)):
        raise OptionError(f"cache: True, False or a folder, not {type(given).__name__}")
    if Path(given).is_file():
        raise OptionError(f"cache: {quote(given)} is a file, not a folder")
    KnownMachine(Path(given)).recall()
    return ObjectCache(Path(given)), ProgramCache(Path(given))


def mapping_of(given: object, what: str, of: str) -> dict[str, Any] | None:
    """``given`` as a dictionary whose values are ``of`` some kind; None stays None."""
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise OptionError(f"{what}: a dictionary of {of} by name, not {type(given).__name__}")
    return {str(k): v for k, v in given.items()}


def sizes_of(given: object, what: str = "sizes") -> dict[str, int] | None:
    """Sizes by name, as plain integers."""
    named = mapping_of(given, what, "sizes")
    return None if named is None else {k: _size(v, what, k) for k, v in named.items()}


def check_expected(expect: Mapping[str, int], *known: Iterable[str]) -> None:
    """Raises ``OptionError`` where ``expect`` names a size that is in none of ``known``."""
    names = set().union(*known)
    for name in expect:
        if name not in names:
            listed = ", ".join(quote(n) for n in sorted(names)) or "none: all are known"
            raise OptionError(f"expect: the model has no size {quote(name)}; there are {listed}")


def shapes_of(given: object) -> dict[str, list[int | str]] | None:
    """Shapes of inputs by name: integers, or names of symbolic sizes."""
    named = mapping_of(given, "shapes", "shapes")
    if named is None:
        return None
    found: dict[str, list[int | str]] = {}
    for name, shape in named.items():
        if isinstance(shape, str) or not isinstance(shape, Iterable):
            raise OptionError(
                f"shapes[{quote(name)}]: a list of sizes and names, not {quote(shape)}")
        found[name] = [d if isinstance(d, str) else _size(d, "shapes", name) for d in shape]
    return found


def _size(given: Any, what: str, name: object) -> int:
    try:
        if isinstance(given, bool):
            raise TypeError
        size = operator.index(given)
    except TypeError:
        raise OptionError(f"{what}[{quote(name)}]: {quote(given)} is not a size") from None
    if size < 0:
        raise OptionError(f"{what}[{quote(name)}]: a size is not negative, got {size}")
    return size


def check_of(given: object) -> bool | dict[str, Any]:
    """Whether to check, or the feeds to check on."""
    if isinstance(given, bool):
        return given
    named = mapping_of(given, "check", "feeds (or True, or False)")
    return False if named is None else named


def text_of(given: object, what: str) -> str | None:
    """A text; None stays None."""
    if given is None or isinstance(given, str):
        return given
    raise OptionError(f"{what}: a text or None, not {type(given).__name__}")


def weights_of(given: object, pipeline: str | None, check: object) -> str | None:
    """The pass list that keeps weights as ``given``; None keeps them as they are."""
    if given is None:
        return pipeline
    if given != "bf16":
        raise OptionError(f'weights: None or "bf16", not {quote(given)}')
    if check is not False and check is not None:
        raise OptionError("check: it compares with the model's own weights, and these are to be "
                          "rounded; compare without weights, or the outputs yourself")
    from .pipeline import PIPELINE  # rules take time to import, and a cached program needs none

    return ",".join([*(PIPELINE if pipeline is None else [pipeline]), ROUNDING])


def check_rounded(passes: Iterable[PassReport]) -> None:
    """Raises ``OptionError`` where weights were to be rounded and there are none."""
    if any(p.name == ROUNDING and not p.fired for p in passes):
        raise OptionError('weights: no product of float32 matrices has a constant right operand of '
                          'its own, so "bf16" would change nothing; leave it away')


def progress_of(given: object) -> Progress | None:
    """What is called as the work goes on; None stays None."""
    if given is None or callable(given):
        return given
    raise OptionError(f"progress: a function of (stage, done, total), not {type(given).__name__}")


def schedule_text(given: object) -> str | None:
    """The text of a schedule given as itself, its text or a file; None stays None."""
    if given is None or isinstance(given, Schedule):
        return None if given is None else str(given)
    if isinstance(given, str) and ("\n" in given or given.lstrip().startswith("schedule ")):
        return given
    if not isinstance(given, (str, os.PathLike)):
        raise OptionError(f"schedule: a Schedule, its text or a file, not {type(given).__name__}")
    try:
        return Path(given).read_text("utf-8")
    except OSError as error:
        raise ScheduleError(f"schedule file {quote(given)}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ScheduleError(f"schedule file {quote(given)}: {error}") from None


def is_schedule_of(text: str, graph: Graph) -> bool:
    """Whether a schedule's text, which need not be right otherwise, names ``graph``."""
    return parse_schedule(text).graph == graph.digest


def schedule_of(text: str, graph: Graph, target: Target | None = None) -> Schedule:
    """The schedule for ``graph`` on ``target`` (None: this machine) that ``text`` describes; raises
    ``ScheduleError`` with the reason if it is not legal, ``ParseError`` if the text cannot be
    read."""
    found = parse_schedule(text)
    check_schedule(found, graph, target)
    ordered = (replace(g, nodes=tuple(sorted(g.nodes)), again=tuple(sorted(g.again)))
               for g in found.groups)
    return Schedule(found.graph, tuple(ordered))


def check_schedule(schedule: Schedule, graph: Graph, target: Target | None = None) -> None:
    """Raises ``ScheduleError`` with the first reason why ``schedule`` is not legal on ``target``
    (None: this machine)."""
    from ..search.legality import implementation

    check_order(schedule, graph)
    every = zip(schedule.groups, schedule.members(graph), schedule.written(graph), strict=True)
    for k, (group, nodes, written) in enumerate(every):
        shown = "(" + " ".join(n.op for n in nodes) + ")"
        if not nodes:
            raise ScheduleError(f"group g{k} is empty")
        if given := [n for n in nodes if n.op in ("input", "const")]:
            raise ScheduleError(f"group g{k} {shown}: {given[0].op} is not computed by any group")
        found, reason = implementation(graph, nodes, written)
        if found is None:
            raise ScheduleError(f"group g{k} {shown} is not legal: {reason}")
        if found != group.implementation and (found, group.implementation) != ("contract", "loops"):
            raise ScheduleError(
                f"group g{k} {shown} runs as {found}, not as {group.implementation}")
        if group.variant:
            try:
                _check_variant(graph, group, nodes, written, target or Target.detect())
            except Refused as refusal:
                raise ScheduleError(f"group g{k} {shown}: {refusal}") from None


def fitted(schedule: Schedule, graph: Graph, target: Target) -> Schedule:
    """A legal schedule made for another machine: settings that kernels of ``target`` cannot have
    (a micro-tile of vectors of another width) are left to the kernel."""
    groups = []
    every = zip(schedule.groups, schedule.members(graph), schedule.written(graph), strict=True)
    for group, nodes, written in every:
        kept = replace(group, variant=())
        for setting in group.variant:
            more = replace(kept, variant=(*kept.variant, setting))
            with suppress(Refused):
                _check_variant(graph, more, nodes, written, target)
                kept = more
        groups.append(kept)
    return Schedule(schedule.graph, tuple(groups))


def _check_variant(graph: Graph, group: Group, nodes: Sequence[Node], written: Sequence[Value],
                   target: Target) -> None:
    """Raises ``Refused`` where the kernel of a legal group cannot have the settings."""
    form = Form()
    if group.implementation in FUSED:
        cut = extract(graph, nodes, written)
        constants = frozenset(k for k, v in enumerate(cut.inputs) if v.node.op == "const")
        form = form_of(cut.graph, group.implementation, constants)
    check_variant(form, target, group.variant)
