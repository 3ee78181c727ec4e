"""Full-size ONNX exports of well-known architectures with random weights.

Each architecture is built from its `transformers` configuration (no download), filled with seeded
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

import functools
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import click

from .cache import export_dir, sha256_of
from .feeds import Feed, full, generate, ids, image, normal

SEED = 20240229


@dataclass(frozen=True)
class Recipe:
    """How one architecture is built and exported."""

    build: Callable[[], Any]
    """Returns the torch module (random weights are set afterwards)."""
    feeds: tuple[Feed, ...]
    """Example inputs, in the order of the exported model's inputs."""
    outputs: tuple[str, ...] = ("output",)
    """Output names, a prefix of what the module returns."""
    opset: int = 18
    legacy: bool = False
    """Use the TorchScript exporter, whose spellings (decomposed norms, GELU) differ."""
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    """Input name -> axis -> symbol, for exports with dynamic shapes."""
    gains: Mapping[str, float] = field(default_factory=dict)
    """Factors on weights by the end of the layer's path, where a random network would be chaotic:
    attention too flat makes all rows of a post-norm stack one, attention too sharp (T5 does not
    divide by the root of the head size) or residual branches as large as their trunk amplify
    rounding until nothing can be compared."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Constant keyword arguments of the forward call."""


def _from_config(model: str, config: str, **options: Any) -> Callable[[], Any]:
    """Builder of ``transformers.<model>(transformers.<config>(**options))``."""

    def build() -> Any:
        import transformers

        configuration = getattr(transformers, config)(**options)
        return getattr(transformers, model)(configuration)

    return build


def _efficientnet(**options: Any) -> Any:
    """EfficientNet with a plain global average.

    `transformers` spells it as a pooling window of 1280 x 1280 over 7 x 7 pixels with rounding up;
    OpenVINO refuses that, and the numbers are the same.
    """
    import torch

    module = _from_config("EfficientNetForImageClassification", "EfficientNetConfig", **options)()
    module.efficientnet.pooler = torch.nn.AdaptiveAvgPool2d(1)
    return module


def _encoder_of(model: str, config: str, **options: Any) -> Callable[[], Any]:
    """Like :func:`_from_config`, but only the encoder half."""

    def build() -> Any:
        return _from_config(model, config, **options)().get_encoder()

    return build


def _image(side: int) -> tuple[Feed, ...]:
    return (image("pixel_values", (1, 3, side, side), -2, 2),)


def _tokens(vocabulary: int, length: int, *more: str) -> tuple[Feed, ...]:
    """Token ids and the named inputs beside them: a mask of ones, segment ids of zeros."""
    shape = (1, length)
    values = {"attention_mask": 1, "token_type_ids": 0}
    return (ids("input_ids", shape, vocabulary), *(full(k, shape, values[k]) for k in more))


_BERT_AXES = {0: "batch", 1: "sequence"}

RECIPES: dict[str, Recipe] = {
    "resnet50": Recipe(
        _from_config("ResNetForImageClassification", "ResNetConfig", num_labels=1000), _image(224)
    ),
    "bert_base": Recipe(
        _from_config("BertModel", "BertConfig"),
        _tokens(30522, 128, "attention_mask", "token_type_ids"),
        outputs=("last_hidden_state", "pooler_output"),
        gains={"query": 1.6, "key": 1.6, "attention.output.dense": 0.3, "output.dense": 0.5},
    ),
    "mobilenetv2": Recipe(
        _from_config(
            "MobileNetV2ForImageClassification",
            "MobileNetV2Config",
            num_labels=1000,
            tf_padding=False,
        ),
        _image(224),
    ),
    "efficientnet_b0": Recipe(
        functools.partial(
            _efficientnet,
            num_labels=1000,
            width_coefficient=1.0,
            depth_coefficient=1.0,
            image_size=224,
            hidden_dim=1280,
            dropout_rate=0.2,
        ),
        _image(224),
    ),
    "vit_base": Recipe(
        _from_config("ViTForImageClassification", "ViTConfig", num_labels=1000), _image(224)
    ),
    "gpt2": Recipe(
        _from_config("GPT2LMHeadModel", "GPT2Config", use_cache=False),
        _tokens(50257, 64),
        outputs=("logits",),
        options={"use_cache": False},
    ),
    "distilbert": Recipe(
        _from_config("DistilBertModel", "DistilBertConfig"),
        _tokens(30522, 128, "attention_mask"),
        outputs=("last_hidden_state",),
        dynamic={"input_ids": _BERT_AXES, "attention_mask": _BERT_AXES},
    ),
    "convnext_tiny": Recipe(
        _from_config("ConvNextForImageClassification", "ConvNextConfig", num_labels=1000),
        _image(224),
    ),
    "swin_tiny": Recipe(
        _from_config("SwinForImageClassification", "SwinConfig", num_labels=1000), _image(224)
    ),
    "t5_small_encoder": Recipe(
        _encoder_of("T5Model", "T5Config"),
        _tokens(32128, 128, "attention_mask"),
        outputs=("last_hidden_state",),
        gains={"q": 0.125},
    ),
    "whisper_tiny_encoder": Recipe(
        _encoder_of(
            "WhisperModel",
            "WhisperConfig",
            d_model=384,
            encoder_layers=4,
            decoder_layers=4,
            encoder_attention_heads=6,
            decoder_attention_heads=6,
            encoder_ffn_dim=1536,
            decoder_ffn_dim=1536,
        ),
        (normal("input_features", (1, 80, 3000), 0.5),),
        outputs=("last_hidden_state",),
    ),
    "mobilevit_small": Recipe(
        _from_config("MobileViTForImageClassification", "MobileViTConfig", num_labels=1000),
        _image(256),
    ),
    "bert_base_ts14": Recipe(
        _from_config("BertModel", "BertConfig", attn_implementation="eager"),
        _tokens(30522, 128, "attention_mask", "token_type_ids"),
        outputs=("last_hidden_state", "pooler_output"),
        gains={"query": 1.6, "key": 1.6, "attention.output.dense": 0.3, "output.dense": 0.5},
        opset=14,
        legacy=True,
        dynamic={
            "input_ids": _BERT_AXES,
            "attention_mask": _BERT_AXES,
            "token_type_ids": _BERT_AXES,
        },
    ),
    "levit_ts13": Recipe(
        _from_config("LevitForImageClassification", "LevitConfig", num_labels=1000),
        _image(224),
        gains={"projection.batch_norm": 0.25, "linear_down.batch_norm": 0.25},
        opset=13,
        legacy=True,
    ),
}
"""Every export by name, in the order in which they are built."""


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

        class Outputs(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = module

            def forward(self, *args: Any) -> Any:
                feeds = dict(zip((feed.name for feed in recipe.feeds), args, strict=True))
                result = self.inner(**feeds, **recipe.options, return_dict=False)
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
