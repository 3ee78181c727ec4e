"""``python -m evonnx.bench`` is ``python -m evonnx.bench.run``."""

from .run import main

if __name__ == "__main__":
    main()
