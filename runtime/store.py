"""The cache of compiled programs: artefacts on disk, found by everything they were made from.

An artefact holds packed constants, so entries are as large as models: the folder is bounded, an
entry over its own bound is not kept, and nothing is written to a disk that is nearly full.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.errors import ArtefactError
from .artefact import Artefact, read_artefact, write_artefact
from .constants import Key
from .disk import DiskCache
from .program import Program

MAX_BYTES = 4 << 30
"""Default bound of the folder's size."""
MAX_ENTRY = 1 << 30
"""Constants of more bytes are packed anew in every process."""
_FREE = 4
"""An entry is written where the disk has this many times its size free."""


class ProgramCache(DiskCache):
    """Compiled programs on disk; safe for several threads and processes at once."""

    def __init__(self, folder: Path | str | None = None, max_bytes: int = MAX_BYTES) -> None:
        super().__init__("programs", folder, max_bytes)

    def get(self, key: str) -> tuple[Artefact | None, str]:
        """The program made under ``key``; or None, and why not."""
        file, why = self.open(key.encode())
        if file is None:
            return None, why
        with file:
            try:
                return read_artefact(file, key), "cached"
            except (ArtefactError, OSError, KeyError, TypeError, ValueError) as error:
                return None, f"the entry is unusable: {error}"

    def put(
        self, key: str, notes: Mapping[str, Any], program: Program,
        objects: Mapping[str, bytes], constants: Mapping[Key, np.ndarray],
    ) -> str:
        """Keeps a program; returns "" or why it could not be kept."""
        nbytes = sum(a.nbytes for a in constants.values())
        if nbytes > MAX_ENTRY:
            return f"{nbytes >> 20} MiB of constants are more than {MAX_ENTRY >> 20} MiB"
        import shutil  # with its compression libraries, which reading does without

        with suppress(OSError):  # what does not exist yet is made by `store`
            free = shutil.disk_usage(self.folder.parent).free
            if free < _FREE * nbytes:
                return f"the disk has only {free >> 20} MiB free"
        why = self.store(
            key.encode(), lambda f: write_artefact(f, key, notes, program, objects, constants)
        )
        self.clean_if_grown()
        return why
