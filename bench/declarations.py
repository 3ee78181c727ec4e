"""Records what the installed ``onnx`` declares of its operators, for the importer.

    python -m evonnx.bench.declarations

To be run when another version of ``onnx`` becomes the one that EvoNNX is developed with.
"""

from __future__ import annotations

from ..compiler.importer.declarations import TABLE, lines


def main() -> None:
    """Writes the table."""
    TABLE.write_text("".join(f"{line}\n" for line in lines()), encoding="utf-8")


if __name__ == "__main__":
    main()
