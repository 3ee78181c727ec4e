"""Cache folder of the bench: where fetched and exported models lie, and how they are verified.

Files are identified by their SHA-256.  A file is put in place by an atomic rename, so that a
reader never sees half of one and two fetchers at once do no harm.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

MODELS_ENV = "EVONNX_MODELS"
"""Environment variable that overrides the cache folder."""


def cache_dir() -> Path:
    """Folder of the models: ``$EVONNX_MODELS``, else ``~/.cache/evonnx/models``."""
    override = os.environ.get(MODELS_ENV)
    return Path(override) if override else Path.home() / ".cache" / "evonnx" / "models"


def export_dir() -> Path:
    """Folder of the models that :mod:`evonnx.bench.export` builds."""
    return cache_dir() / "exports"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file as lower-case hex, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def place(data: bytes, path: Path) -> None:
    """Writes ``data`` to ``path`` atomically, creating its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".part-")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
