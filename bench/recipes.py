"""What is exported: architectures with random weights, their inputs, and how they are built.

``EXPORTS`` are the architectures that EvoNNX was built against, from `transformers` configurations.
``FAMILIES`` are others that nobody looked at while kernels and rules were written: detection,
segmentation, super-resolution, speech, recurrent networks, recommendation, graphs, diffusion, and
language models that generate one token with a cache of keys and values.  ``UNSEEN`` are kept for
judging cost models.  Sizes are those of published models.  What `transformers` lacks is written in
:mod:`evonnx.bench.architectures`.
``WIRED`` are networks of many branches (:mod:`evonnx.bench.wired`), for peak memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .feeds import Feed, full, ids, image, normal


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

EXPORTS: dict[str, Recipe] = {
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
"""Architectures of the default bench by name."""


def _own(name: str, module: str = "architectures", **options: Any) -> Callable[[], Any]:
    """Builder of ``<module>.<name>(**options)``."""

    def build() -> Any:
        from . import architectures, wired

        return getattr({"architectures": architectures, "wired": wired}[module], name)(**options)

    return build


def _generator(model: str, config: str, **options: Any) -> Callable[[], Any]:
    """Builder of a causal language model whose cache goes in and out as plain tensors."""

    def build() -> Any:
        from .architectures import Cached

        return Cached(_from_config(model, config, **options)())

    return build


def _caches(layers: int, heads: int, past: int, size: int) -> tuple[Feed, ...]:
    """Keys and values of ``past`` positions in every layer."""
    return tuple(
        normal(f"{part}_{layer}", (1, heads, past, size), 0.5)
        for layer in range(layers)
        for part in ("key", "value")
    )


def _decode(layers: int, heads: int, past: int, size: int, vocabulary: int) -> dict[str, Any]:
    """Inputs and outputs of one step of generation; the length of the cache is symbolic."""
    caches = _caches(layers, heads, past, size)
    return {
        "feeds": (ids("input_ids", (1, 1), vocabulary), *caches),
        "outputs": ("logits", *(f"new_{cache.name}" for cache in caches)),
        "dynamic": {cache.name: {2: "past"} for cache in caches},
    }


_LLAMA = {  # SmolLM 135M
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 2048,
}
_RESNET18 = {
    "hidden_sizes": [64, 128, 256, 512],
    "depths": [2, 2, 2, 2],
    "layer_type": "basic",
    "out_features": ["stage2", "stage3", "stage4"],
}


def _rtdetr() -> Any:
    """RT-DETR with ResNet-18."""
    import transformers

    backbone = transformers.RTDetrResNetConfig(**_RESNET18)
    return transformers.RTDetrForObjectDetection(
        transformers.RTDetrConfig(
            backbone_config=backbone,
            encoder_in_channels=[128, 256, 512],
            decoder_layers=3,
            anchor_image_size=[640, 640],
        )
    )


FAMILIES: dict[str, Recipe] = {
    "gpt2_decode": Recipe(
        _generator("GPT2LMHeadModel", "GPT2Config"), **_decode(12, 12, 127, 64, 50257)
    ),
    "llama_decode": Recipe(
        _generator("LlamaForCausalLM", "LlamaConfig", **_LLAMA), **_decode(30, 3, 255, 64, 49152)
    ),
    "llama_prefill": Recipe(
        _from_config("LlamaForCausalLM", "LlamaConfig", **_LLAMA),
        (ids("input_ids", (1, 128), 49152),),
        outputs=("logits",),
        options={"use_cache": False},
    ),
    "yolos_tiny": Recipe(
        _from_config(
            "YolosForObjectDetection",
            "YolosConfig",
            hidden_size=192,
            num_attention_heads=3,
            intermediate_size=768,
            image_size=[512, 512],
            num_labels=91,
        ),
        _image(512),
        outputs=("logits", "boxes"),
    ),
    "rtdetr_r18": Recipe(_rtdetr, _image(640), outputs=("logits", "boxes")),
    "segformer_b0": Recipe(
        _from_config("SegformerForSemanticSegmentation", "SegformerConfig", num_labels=150),
        _image(512),
        outputs=("logits",),
    ),
    "swin2sr_light": Recipe(
        _from_config(
            "Swin2SRForImageSuperResolution",
            "Swin2SRConfig",
            embed_dim=60,
            depths=[6, 6, 6, 6],
            num_heads=[6, 6, 6, 6],
            upsampler="pixelshuffledirect",
        ),
        _image(64),
        outputs=("reconstruction",),
    ),
    "edsr_baseline": Recipe(
        _own("Edsr"), (image("pixel_values", (1, 3, 128, 128)),), outputs=("image",)
    ),
    "wav2vec2_base": Recipe(
        _from_config("Wav2Vec2ForCTC", "Wav2Vec2Config"),
        (normal("input_values", (1, 16000)),),
        outputs=("logits",),
        legacy=True,
    ),
    "bilstm_tagger": Recipe(
        _own("Tagger"), (ids("tokens", (1, 64), 30000),), outputs=("scores",), legacy=True
    ),
    "gru_speech": Recipe(
        _own("DeepSpeech"),
        (normal("spectrogram", (1, 1, 161, 200)),),
        outputs=("scores",),
        legacy=True,
    ),
    "dlrm": Recipe(
        _own("Dlrm"),
        (normal("dense", (128, 13)), ids("sparse", (128, 26), 20000)),
        outputs=("probability",),
    ),
    "gat_cora": Recipe(
        _own("Gat"),
        (normal("features", (2708, 1433), 0.1), ids("edges", (2, 10556), 2708)),
        outputs=("scores",),
    ),
    "diffusion_unet": Recipe(
        _own("DiffusionUnet"),
        (normal("latent", (1, 4, 64, 64)), full("step", (1,), 500), normal("text", (1, 77, 768))),
        outputs=("noise",),
    ),
}
"""Architectures of other families by name."""

WIRED: dict[str, Recipe] = {
    "randwire": Recipe(_own("RandWire", "wired"), _image(224), legacy=True),
    "nasnet_mobile": Recipe(_own("Nasnet", "wired"), _image(224), legacy=True),
    "nasnet_cifar": Recipe(
        _own("Nasnet", "wired", cells=6, filters=32, small=True), _image(32), legacy=True
    ),
    "darts": Recipe(_own("Darts", "wired"), _image(224), legacy=True),
    "darts_cifar": Recipe(
        _own("Darts", "wired", cells=20, channels=36, small=True), _image(32), legacy=True
    ),
    "inception_v3": Recipe(_own("Inception", "wired"), _image(299), legacy=True),
}
"""Irregularly wired networks, for peak memory."""


def _pictures(model: str, config: str, **options: Any) -> Recipe:
    """A classifier of 1000 kinds of pictures."""
    return Recipe(_from_config(model, config, num_labels=1000, **options), _image(224))


UNSEEN: dict[str, Recipe] = {
    "regnet_y_400mf": _pictures(
        "RegNetForImageClassification",
        "RegNetConfig",
        embedding_size=32,
        hidden_sizes=[48, 104, 208, 440],
        depths=[1, 3, 6, 6],
        groups_width=8,
    ),
    "mobilenetv1": _pictures(
        "MobileNetV1ForImageClassification", "MobileNetV1Config", tf_padding=False
    ),
    "pplcnet": _pictures("PPLCNetForImageClassification", "PPLCNetConfig"),
    "hgnetv2": _pictures("HGNetV2ForImageClassification", "HGNetV2Config"),
    "textnet": _pictures("TextNetForImageClassification", "TextNetConfig"),
    "poolformer_s12": _pictures("PoolFormerForImageClassification", "PoolFormerConfig"),
    "pvt_v2_b0": _pictures("PvtV2ForImageClassification", "PvtV2Config"),
    "swiftformer_xs": _pictures("SwiftFormerForImageClassification", "SwiftFormerConfig"),
    "mobilevitv2": _pictures("MobileViTV2ForImageClassification", "MobileViTV2Config"),
    "cvt_13": _pictures("CvtForImageClassification", "CvtConfig"),
    "focalnet_tiny": _pictures("FocalNetForImageClassification", "FocalNetConfig"),
    "dinov2_small": _pictures(
        "Dinov2ForImageClassification", "Dinov2Config", hidden_size=384, num_attention_heads=6
    ),
    "convnextv2_tiny": _pictures("ConvNextV2ForImageClassification", "ConvNextV2Config"),
    "bit_50": _pictures("BitForImageClassification", "BitConfig"),
    "clip_vit_b32": Recipe(
        _from_config("CLIPVisionModel", "CLIPVisionConfig"),
        _image(224),
        outputs=("last_hidden_state", "pooler_output"),
    ),
}
"""Architectures that judge cost models: nobody looked at them while these were written."""

RECIPES: dict[str, Recipe] = {**EXPORTS, **FAMILIES, **WIRED, **UNSEEN}
"""Every export by name, in the order in which they are built."""
