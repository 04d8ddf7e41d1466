"""The KV cache of the CPU backend: every layer's keys and values, in float32, float16 or 8 bits."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.kernels.cache import GROUP, CacheType, KeysValues, Shape
from powerinfer_cli.model import Rope, RopeStyle
from powerinfer_cli.model.blocks import Attention, Layer, recurrent_layers
from powerinfer_cli.runtime.context.cache_size import kv_bytes
from powerinfer_cli.runtime.context.pages import Cells, Extent

__all__ = ["PackedCache", "check_types"]

Frequencies: TypeAlias = Mapping[Rope, npt.NDArray[np.float64]]
Moves: TypeAlias = Callable[[int | None], tuple[Cells, Cells]]


class PackedCache:
    """`layers`: what kernels read and write. Which cells hold what is for others to know. Encoders' layers, which keep
    nothing, share a room in float32.
    """

    def __init__(
        self, layers: Sequence[Layer[Any, Any]], extent: Extent, type_k: str = "f16", type_v: str = "f16"
    ) -> None:
        """Raises:
        PowerInferError: no memory, or q8_0 for heads that do not divide into groups of 32.
        """
        check_types(layers, type_k, type_v)
        self._attentions = attentions = [layer.attention for layer in layers]
        recurrent = recurrent_layers(layers)
        types = CacheType(type_k), CacheType(type_v)
        try:
            self.layers = []
            rooms: dict[Shape, KeysValues] = {}
            for number, one in enumerate(attentions):
                shape = Shape(one.n_head, one.n_head_kv, one.head_dim, extent.n_cells(one.window))
                floats = recurrent[number].state_size if number in recurrent else 0
                if isinstance(one, Attention) and not one.causal:
                    room = rooms.get(shape) or KeysValues.make(shape, CacheType.F32, CacheType.F32)
                    self.layers.append(rooms.setdefault(shape, room))
                    continue
                self.layers.append(KeysValues.make(shape, *types, states=(extent.n_sequences, floats)))
        except MemoryError as error:
            size = kv_bytes(layers, extent, type_k, type_v) / 2**30
            raise PowerInferError(
                f"no memory for a context of {extent.n_ctx} tokens ({size:.1f} GiB): choose a smaller one (-c, n_ctx)"
            ) from error

    @property
    def n_bytes(self) -> int:
        return sum(layer.n_bytes for layer in self.layers)

    def shift(self, moves: Moves, by: int, frequencies: Frequencies) -> None:
        """Move what is in cells to others, which may be among them, its keys turned back by so many positions.

        moves: from where to where, in a layer with such a window, or without one. frequencies: of each rope, the angle
        per position of each rotated pair, [n_rot / 2].
        """
        for layer, attention in zip(self.layers, self._attentions, strict=True):
            cells, to = moves(attention.window)
            if not cells.size:
                continue
            keys, _ = layer.read(cells)
            if (rope := attention.rope) is not None:
                angles = by * frequencies[rope]
                keys = turned(keys, np.cos(angles), -np.sin(angles), rope.style)
            layer.write_keys(to, keys)
            layer.move_values(cells, to)


def check_types(layers: Sequence[Layer[Any, Any]], type_k: str, type_v: str) -> None:
    """Raises PowerInferError: q8_0 for heads that do not divide into groups of 32."""
    for flag, kind in (("-ctk", type_k), ("-ctv", type_v)):
        odd = [layer.attention.head_dim for layer in layers if layer.attention.head_dim % GROUP]
        if kind == CacheType.Q8_0 and odd:
            raise PowerInferError(f"{flag} q8_0 needs heads of a multiple of {GROUP}, not {odd[0]}")


def turned(
    keys: npt.NDArray[np.float32], cos: npt.NDArray[np.float64], sin: npt.NDArray[np.float64], style: RopeStyle
) -> npt.NDArray[np.float32]:
    """Keys [N, H, D], their pairs turned by the angles whose cos and sin these are, [n_rot / 2]."""
    n_rot, result = 2 * len(cos), keys.copy()
    apart, step = style.steps(n_rot)
    first, second = slice(0, n_rot - apart, step), slice(apart, n_rot, step)
    a, b = keys[..., first], keys[..., second]
    result[..., first] = a * cos - b * sin
    result[..., second] = a * sin + b * cos
    return result
