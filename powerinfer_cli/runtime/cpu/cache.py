"""The KV cache of the CPU backend: every layer's keys and values, in float32, float16 or 8 bits."""

import math

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.kernels.cache import GROUP, PAGE, CacheType, KeysValues, Shape
from powerinfer_cli.model import ModelConfig, RopeStyle
from powerinfer_cli.runtime.cache_size import kv_bytes

__all__ = ["PackedCache"]

Cells = npt.NDArray[np.int64]


class PackedCache:
    """`layers`: what kernels read and write. Which cells hold what is for others to know."""

    def __init__(
        self, config: ModelConfig, n_cells: int, type_k: str = "f16", type_v: str = "f16", n_layer: int | None = None
    ) -> None:
        """For all layers, or for n_layer of them; n_cells is rounded up to whole pages.

        Raises:
            PowerInferError: no memory, or q8_0 for heads that do not divide into groups of 32.
        """
        for flag, kind in (("-ctk", type_k), ("-ctv", type_v)):
            if kind == CacheType.Q8_0 and config.head_dim % GROUP:
                raise PowerInferError(f"{flag} q8_0 needs heads of a multiple of {GROUP}, not {config.head_dim}")
        cells = math.ceil(n_cells / PAGE) * PAGE
        shape = Shape(config.n_head, config.n_head_kv, config.head_dim, cells)
        self.config = config
        layers = config.n_layer if n_layer is None else n_layer
        try:
            self.layers = [KeysValues.make(shape, CacheType(type_k), CacheType(type_v)) for _ in range(layers)]
        except MemoryError as error:
            size = kv_bytes(config, cells, type_k, type_v) / 2**30
            raise PowerInferError(
                f"no memory for a context of {n_cells} tokens ({size:.1f} GiB): choose a smaller -c"
            ) from error

    @property
    def n_bytes(self) -> int:
        return sum(layer.n_bytes for layer in self.layers)

    def shift(self, cells: Cells, to: Cells, by: int, frequencies: npt.NDArray[np.float64]) -> None:
        """Move what is in cells to others, which may be among them, its keys turned back by so many positions.

        frequencies: the angle per position of each rotated pair, [n_rot / 2].
        """
        assert self.config.rope is not None  # learned positions cannot be turned back
        if not cells.size:
            return
        cos, sin = np.cos(by * frequencies), -np.sin(by * frequencies)
        for layer in self.layers:
            keys, _ = layer.read(cells)
            layer.write_keys(to, turned(keys, cos, sin, self.config.rope.style))
            layer.move_values(cells, to)


def turned(
    keys: npt.NDArray[np.float32], cos: npt.NDArray[np.float64], sin: npt.NDArray[np.float64], style: RopeStyle
) -> npt.NDArray[np.float32]:
    """Keys [N, H, D], their pairs turned by the angles whose cos and sin these are, [n_rot / 2]."""
    n_rot, result = 2 * len(cos), keys.copy()
    near = style is RopeStyle.INTERLEAVED
    first, second = (slice(0, n_rot, 2), slice(1, n_rot, 2)) if near else (slice(n_rot // 2), slice(n_rot // 2, n_rot))
    a, b = keys[..., first], keys[..., second]
    result[..., first] = a * cos - b * sin
    result[..., second] = a * sin + b * cos
    return result
