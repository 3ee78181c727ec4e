"""ImageDecoder: a host step, since no kernel reads image files."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from ...ir.errors import ModelError
from ...ir.graph import Value
from ...ir.ops.images import CHANNELS, NEEDS_PILLOW
from ...ir.types import U8, TensorType
from .ops_host import host_node
from .registry import lowering

if TYPE_CHECKING:
    from ..messages import NodeProto
    from .context import Ctx


@lowering("ImageDecoder")
def image_decoder(ctx: Ctx, node: NodeProto) -> Value:
    """The bytes of a file to u8 [height, width, channels]."""
    x, layout = ctx.input(0), ctx.attr("pixel_format", "RGB")
    if x.dtype != U8 or x.rank != 1:
        raise ModelError(f"the bytes of a file are needed, u8 [n], got {x.type}")
    if layout not in CHANNELS:
        raise ModelError(f"pixel_format {layout[:20]!r} is none of {', '.join(CHANNELS)}")
    if find_spec("PIL") is None:
        ctx.fail(NEEDS_PILLOW)
    result = TensorType(U8, (ctx.b.fresh("height"), ctx.b.fresh("width"), CHANNELS[layout]))
    return host_node(ctx, "decode_image", [x], {"pixel_format": layout}, [result])[0]
