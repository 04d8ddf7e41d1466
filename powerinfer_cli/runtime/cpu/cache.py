"""The KV cache of the CPU backend: every layer's keys and values, in float32, float16 or 8 bits."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.kernels.cache import GROUP, CacheType, KeysValues, Shape
from powerinfer_cli.model import Rope, RopeStyle
from powerinfer_cli.model.blocks import Attention, Layer, SharedAttention, recurrent_layers
from powerinfer_cli.runtime.context.cache_size import kv_bytes
from powerinfer_cli.runtime.context.pages import Cells, Extent

__all__ = ["PackedCache", "check_types"]

Frequencies: TypeAlias = Mapping[Rope, npt.NDArray[np.float64]]
Moves: TypeAlias = Callable[[int | None], tuple[Cells, Cells]]


class PackedCache:
    """`kept`: by the number of the layer whose keys and values they are; `layers`: what kernels of those that are here
    read and write, in order: their own, or what they read of another. Which cells hold what is for others to know.
    Encoders' layers, which keep nothing, share a room in float32.
    """

    def __init__(
        self,
        layers: Mapping[int, Layer[Any, Any]],
        extent: Extent,
        type_k: str = "f16",
        type_v: str = "f16",
        elsewhere: Mapping[int, Layer[Any, Any]] = MappingProxyType({}),
    ) -> None:
        """By number in the model. elsewhere: layers that are not here, but whose keys and values those here read.

        Raises:
            PowerInferError: no memory, or q8_0 for heads that do not divide into groups of 32.
        """
        every = {**layers, **elsewhere}
        check_types(list(every.values()), type_k, type_v)
        self._mixers = {number: layer.attention for number, layer in every.items()}
        recurrent = {number: one for number, layer in every.items() for one in recurrent_layers([layer]).values()}
        types = CacheType(type_k), CacheType(type_v)
        self.kept: dict[int, KeysValues] = {}
        rooms: dict[Shape, KeysValues] = {}
        try:
            for number, one in self._mixers.items():
                if isinstance(one, SharedAttention):
                    continue
                shape = Shape(one.n_head, one.n_head_kv, one.head_dim, extent.n_cells(one.window))
                if isinstance(one, Attention) and not one.causal:
                    room = rooms.get(shape) or KeysValues.make(shape, CacheType.F32, CacheType.F32)
                    self.kept[number] = rooms.setdefault(shape, room)
                    continue
                floats = recurrent[number].state_size if number in recurrent else 0
                self.kept[number] = KeysValues.make(shape, *types, states=(extent.n_sequences, floats))
        except MemoryError as error:
            size = kv_bytes(list(every.values()), extent, type_k, type_v) / 2**30
            raise PowerInferError(
                f"no memory for a context of {extent.n_ctx} tokens ({size:.1f} GiB): choose a smaller one (-c, n_ctx)"
            ) from error
        self.layers = [self._read_by(number) for number in layers]

    def _read_by(self, number: int) -> KeysValues:
        a = self._mixers[number]
        if not isinstance(a, SharedAttention):
            return self.kept[number]
        return self.kept[a.source].read_by(a.n_head)

    @property
    def n_bytes(self) -> int:
        return sum(one.n_bytes for one in self.kept.values())

    def shift(self, moves: Moves, by: int, frequencies: Frequencies) -> None:
        """Move what is in cells to others, which may be among them, its keys turned back by so many positions.

        moves: from where to where, in a layer with such a window, or without one. frequencies: of each rope, the angle
        per position of each rotated pair, [n_rot / 2].
        """
        for number, layer in self.kept.items():
            attention = self._mixers[number]
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
