"""Full-size ONNX exports of well-known architectures with random weights.

Each architecture (:mod:`evonnx.bench.recipes`) is built without any download, filled with seeded
random weights and exported by PyTorch.  Speed does not depend on the weights, but comparing
outputs does, so the weights are drawn to keep activations near unit scale:

1. matrices and kernels are normal with variance 1/fan_in, embeddings and biases small normals,
   normalization scales 1 + 0.1 n and shifts 0.1 n (so that no rule may treat them as identities);
2. batch normalization gets its running statistics from a forward pass in training mode over a
   small batch of noise, layer by layer, as a trained network has them.

Needs the `bench` extra (torch, transformers, onnxscript).  ``python -m evonnx.bench.export [NAME]``
writes ``exports/NAME.onnx`` and ``exports/NAME.json`` (SHA-256, versions, seed, exporter).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import Any

import click

from .cache import export_dir, sha256_of
from .feeds import generate
from .recipes import RECIPES, Recipe

SEED = 20240229


def randomize(module: Any, seed: int, gains: Mapping[str, float]) -> None:
    """Fills every parameter of ``module`` in place; see the module docstring for the law."""
    import torch

    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: Any, mean: float, deviation: float) -> None:
        tensor.normal_(mean, deviation, generator=generator)

    with torch.no_grad():
        for path, part in module.named_modules():
            gain = next((gain for end, gain in gains.items() if path.endswith("." + end)), 1.0)
            kind = type(part).__name__
            for name, parameter in part.named_parameters(recurse=False):
                if "Norm" in kind and name == "weight":
                    normal(parameter, gain, 0.1 * gain)
                elif parameter.ndim < 2 or "bias" in name:
                    normal(parameter, 0.0, 0.1)
                elif isinstance(part, torch.nn.Embedding) or not hasattr(part, "forward"):
                    normal(parameter, 0.0, 0.3)
                elif kind == "Conv1D":  # transformers' GPT-2 linear layer: [in, out]
                    normal(parameter, 0.0, parameter.shape[0] ** -0.5)
                else:
                    normal(parameter, 0.0, gain * parameter[0].numel() ** -0.5)


def calibrate(module: Any, images: Any) -> None:
    """Sets the running statistics of batch normalizations from one training-mode pass."""
    import torch

    norms = [
        part for part in module.modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)
    ]
    if not norms:
        return
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        module(images)
    for norm in norms:
        norm.eval()
        # Pooled features of few pictures hardly vary; dividing by that would amplify rounding.
        power = norm.running_var + norm.running_mean.square()
        norm.running_var.clamp_(min=0.05 * power)


class _Outputs:
    """Makes the torch module that returns the chosen outputs as a tuple."""

    def __new__(cls, module: Any, recipe: Recipe) -> Any:
        import torch
        import transformers

        of_transformers = isinstance(module, transformers.PreTrainedModel)
        options = {**recipe.options, **({"return_dict": False} if of_transformers else {})}

        class Outputs(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = module

            def forward(self, *args: Any) -> Any:
                feeds = dict(zip((feed.name for feed in recipe.feeds), args, strict=True))
                result = self.inner(**feeds, **options)
                return tuple(result[: len(recipe.outputs)])

        return Outputs()


def build(name: str) -> Any:
    """Torch module of one export in evaluation mode, weights set."""
    import torch

    recipe = RECIPES[name]
    torch.manual_seed(SEED)
    module = recipe.build().eval()
    randomize(module, SEED, recipe.gains)
    first = recipe.feeds[0]
    if first.kind == "image":
        pictures = [torch.from_numpy(generate(first, seed)) for seed in range(8)]
        calibrate(module, torch.cat(pictures))
    return _Outputs(module, recipe).eval()


def export(name: str, *, force: bool = False) -> dict[str, Any]:
    """Builds ``exports/<name>.onnx`` unless it is there; returns its manifest."""
    import torch
    import transformers

    recipe = RECIPES[name]
    path = export_dir() / f"{name}.onnx"
    manifest_path = path.with_suffix(".json")
    if path.exists() and manifest_path.exists() and not force:
        return json.loads(manifest_path.read_text())
    path.parent.mkdir(parents=True, exist_ok=True)
    module = build(name)
    args = tuple(torch.from_numpy(generate(feed, SEED)) for feed in recipe.feeds)
    temporary = path.with_name(f".part-{os.getpid()}-{path.name}")
    started = time.perf_counter()
    common = {
        "input_names": [feed.name for feed in recipe.feeds],
        "output_names": list(recipe.outputs),
    }
    axes = {key: dict(value) for key, value in recipe.dynamic.items()}
    with torch.no_grad():
        if recipe.legacy:
            torch.onnx.export(
                module, args, str(temporary), opset_version=recipe.opset, dynamo=False,
                dynamic_axes=axes, **common,
            )  # fmt: skip
        else:
            shapes = (tuple(axes.get(feed.name) for feed in recipe.feeds),) if axes else None
            torch.onnx.export(
                module, args, str(temporary), opset_version=recipe.opset, dynamo=True,
                external_data=False, dynamic_shapes=shapes, **common,
            )  # fmt: skip
    os.replace(temporary, path)
    manifest = {
        "name": name,
        "sha256": sha256_of(path),
        "bytes": path.stat().st_size,
        "seed": SEED,
        "opset": recipe.opset,
        "exporter": "torchscript" if recipe.legacy else "dynamo",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "seconds": round(time.perf_counter() - started, 1),
    }
    manifest_path.write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


@click.command()
@click.argument("names", nargs=-1)
@click.option("--force", is_flag=True, help="Build again even if the file is there.")
def main(names: tuple[str, ...], force: bool) -> None:
    """Build ONNX exports NAMES (default: all) into the model cache folder."""
    unknown = [name for name in names if name not in RECIPES]
    if unknown:
        raise click.UsageError(f"unknown export {unknown}; known: {', '.join(RECIPES)}")
    for name in names or tuple(RECIPES):
        click.echo(f"exporting {name} ...")
        manifest = export(name, force=force)
        size = manifest["bytes"] / 1e6
        click.echo(f"  {size:.0f} MB, {manifest['seconds']} s, sha256 {manifest['sha256']}")


if __name__ == "__main__":
    main()
