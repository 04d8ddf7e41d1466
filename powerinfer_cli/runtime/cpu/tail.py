"""Last layers that keep nothing of a token: of a batch only those tokens pass them whose results are asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from powerinfer_cli.model.blocks import Layer, SharedAttention
from powerinfer_cli.runtime.batch import Batch, Segment
from powerinfer_cli.runtime.cpu.buffers import Buffers

__all__ = ["Waiting", "narrowed", "tail_of"]

Floats = npt.NDArray[np.float32]


def tail_of(layers: Sequence[Layer[Any, Any]]) -> int:
    """The place of the first such layer; behind the last: there is none."""
    place = len(layers)
    while place and isinstance(layers[place - 1].attention, SharedAttention):
        place -= 1
    return place


def narrowed(batch: Batch, rows: Sequence[int]) -> Batch | None:
    """These tokens of a batch, ascending, where each segment has neighbours only; else None."""
    segments: list[Segment] = []
    for s in batch.segments:
        own = [row for row in rows if s.begin <= row < s.end]
        if own and own[-1] - own[0] >= len(own):
            return None
        if own:
            begin = segments[-1].end if segments else 0
            segments.append(Segment(s.sequence, begin, len(own), s.n_past + own[0] - s.begin))
    return Batch(batch.ids[list(rows)], tuple(segments))


@dataclass(frozen=True)
class Waiting:
    """A batch before such layers: the residual stream and what layers get beside it, [T, ...]."""

    batch: Batch
    x: Floats
    inputs: Floats | None

    @classmethod
    def of(cls, batch: Batch, buffers: Buffers) -> "Waiting":
        n, room = len(batch), buffers.inputs
        return cls(batch, buffers.x.floats[:n].copy(), None if room is None else room.inputs.floats[:n].copy())

    def put(self, rows: Sequence[int], buffers: Buffers) -> None:
        """Some tokens to the first places."""
        chosen = list(rows)
        buffers.x.floats[: len(chosen)] = self.x[chosen]
        if buffers.inputs is not None and self.inputs is not None:
            buffers.inputs.inputs.floats[: len(chosen)] = self.inputs[chosen]
