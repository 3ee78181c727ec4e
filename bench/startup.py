"""How long a fresh process takes until it has a model to call, against the peers.

    python -m evonnx.bench.startup resnet50 bert_base --threads 2

Each row is a way to get there: EvoNNX compiling with an empty cache, with the cache that this left,
and loading what ``Compiled.save`` wrote; ONNX Runtime; OpenVINO. *Process* is the life of the whole
process, from its start to its end, interpreter and imports and the reading of the model included,
the first call not; *ready* counts from before our import until there is a callable, *import* is
``import evonnx`` (or the peer's) alone. *CPU* is user and system time of the process and of the
compile workers it started. All are seconds, the smallest of a few rounds; the model file is in the
page cache, byte code of modules was written before.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import click

from .engines import OURS, PEERS
from .machine import headline
from .models import MODELS, path_of
from .run import TIMEOUT, child, resolve

COLUMNS = ("process", "import", "ready", "CPU")
_CHILD = """
import sys, time
began = time.perf_counter()
import {module}
imported = time.perf_counter()
model = {call}
done = time.perf_counter()
import json, resource
spent = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps({{"import": imported - began, "ready": done - began,
                   "CPU": sum(u.ru_utime + u.ru_stime for u in spent)}}))
"""
_COMPILE = _CHILD.format(module="evonnx",
                         call="evonnx.compile(sys.argv[1], threads=int(sys.argv[2]))")
_LOAD = _CHILD.format(module="evonnx", call="evonnx.load(sys.argv[1], threads=int(sys.argv[2]))")
_SAVE = _COMPILE + "model.save(sys.argv[3])"
_PEER = _CHILD.format(
    module="{engine}",
    call="__import__('evonnx.bench.engines', fromlist=['load']).load("
         "'{engine}', __import__('pathlib').Path(sys.argv[1]), int(sys.argv[2]))")  # fmt: skip

Times = dict[str, float]


def once(code: str, arguments: list[str], environment: dict[str, str]) -> Times | str:
    """What one process took; or why it failed."""
    began = time.perf_counter()
    output, failure = child([sys.executable, "-c", code, *arguments], TIMEOUT, environment)
    whole = time.perf_counter() - began
    return failure or {"process": whole, **json.loads(output.splitlines()[-1])}


def smallest(rounds: int, run: Callable[[], Times | str]) -> Times | str:
    """Each figure's smallest of so many runs."""
    found: list[Times] = []
    for _ in range(rounds):
        times = run()
        if isinstance(times, str):
            return times
        found.append(times)
    return {name: min(times[name] for times in found) for name in COLUMNS}


def rows(path: Path, threads: int, rounds: int, peers: bool = True
         ) -> Iterator[tuple[str, Times | str]]:
    """(what, seconds or why there are none) of every way to load the model at ``path``."""
    with tempfile.TemporaryDirectory(prefix="evonnx-startup-") as folder:
        cache, saved = Path(folder, "cache"), Path(folder, "model.evonnx")
        environment = {"EVONNX_CACHE": str(cache)}
        arguments = [str(path), str(threads)]

        def cold() -> Times | str:
            shutil.rmtree(cache, ignore_errors=True)
            return once(_COMPILE, arguments, environment)

        yield f"{OURS}, cold", smallest(rounds, cold)
        yield f"{OURS}, cached", smallest(rounds, partial(once, _COMPILE, arguments, environment))
        kept = once(_SAVE, [*arguments, str(saved)], environment)
        loading = [str(saved), str(threads)]
        yield f"{OURS}, load", kept if isinstance(kept, str) else smallest(
            rounds, partial(once, _LOAD, loading, environment))
        for engine in PEERS if peers else ():
            code = _PEER.replace("{engine}", engine)
            yield engine, smallest(rounds, partial(once, code, arguments, {}))


@click.command(help=__doc__.splitlines()[0])
@click.argument("models", nargs=-1, required=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--rounds", default=3, show_default=True, help="Runs of which the smallest counts.")
@click.option("--peers/--no-peers", default=True, show_default=True)
def main(models: tuple[str, ...], threads: int, rounds: int, peers: bool) -> None:
    """Prints a Markdown table."""
    print(headline(threads))
    print(f"\n| model | process | {' | '.join(COLUMNS)} |\n|---|---|{'--:|' * len(COLUMNS)}")
    for name in resolve(models):
        for what, times in rows(path_of(MODELS[name]), threads, rounds, peers):
            shown = [times] if isinstance(times, str) else [f"{times[c]:.2f}" for c in COLUMNS]
            print(f"| {name} | {what} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
