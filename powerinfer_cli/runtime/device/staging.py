"""What is on its way to a device: by a pinned buffer, on a stream of its own, to a buffer there."""

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from powerinfer_cli import gguf_io
from powerinfer_cli.kernels.device import PlanarRows, to_planar
from powerinfer_cli.placement import HeatRule
from powerinfer_cli.runtime.device.link import Link, make_event

__all__ = ["STAGED_BYTES", "Passage", "Pieces", "Stage", "pieces_bytes", "stages_for"]

Numbers: TypeAlias = npt.NDArray[np.int32]
Pieces: TypeAlias = Sequence[tuple[gguf_io.Tensor, Numbers]]
"""Some rows of matrices."""


STAGED_BYTES = 32 << 20
"""Of what is on its way at a time, if that is more than one piece."""


def stages_for(largest: int, rule: HeatRule, n_layers: int) -> int:
    """How many groups of so many bytes are on their way at a time, of so many layers that adapt."""
    return max(1, min(STAGED_BYTES // largest, rule.uploads * n_layers))


def pieces_bytes(pieces: Pieces) -> int:
    """In the file."""
    return sum(len(rows) * tensor.row_bytes for tensor, rows in pieces)


class Passage:
    """A buffer in main memory and its twin on the device, for one piece of work at a time: fill `host`, `go`,
    `arrived`, then `release` once all that reads what has come is launched.
    """

    def __init__(self, link: Link, size: int) -> None:
        self._host = link.host(size, dtype=torch.uint8)
        self._there = torch.empty(size, dtype=torch.uint8, device=link.device)
        self._copied, self._used = make_event(link.device), make_event(link.device)
        self.release()  # whoever had this memory before may still be reading it

    def host(self) -> torch.Tensor:
        """To be filled: the last copy of it is done."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._host

    def go(self, end: int, stream: "torch.cuda.Stream | None") -> None:
        """Begin to copy so many bytes."""
        if stream is None or self._copied is None or self._used is None:
            self._there[:end].copy_(self._host[:end])
            return
        stream.wait_event(self._used)
        with torch.cuda.stream(stream):
            self._there[:end].copy_(self._host[:end], non_blocking=True)
            self._copied.record(stream)

    def arrived(self) -> torch.Tensor:
        """The bytes on the device; what is launched from now on waits for them."""
        if self._copied is not None:
            torch.cuda.current_stream(self._there.device).wait_event(self._copied)
        return self._there

    def release(self) -> None:
        """What has been launched is the last that reads the device's buffer."""
        if self._used is not None:
            self._used.record(torch.cuda.current_stream(self._there.device))


class Stage(Passage):
    """Of rows of the file: `send`, `arrive`, then `release`."""

    def __init__(self, link: Link, size: int) -> None:
        super().__init__(link, size)
        self._pieces: Pieces = ()

    def send(self, pieces: Pieces, stream: "torch.cuda.Stream | None") -> None:
        """Gather rows, once the last copy is done, and begin to copy them."""
        host, end = self.host(), 0
        self._pieces = pieces
        for tensor, rows in pieces:
            begin, end = end, end + len(rows) * tensor.row_bytes
            tensor.take(rows, host[begin:end].view(len(rows), tensor.row_bytes).numpy())
        self.go(end, stream)

    def arrive(self) -> Iterator[PlanarRows]:
        """The rows on the device, matrix by matrix."""
        there, end = self.arrived(), 0
        for tensor, rows in self._pieces:
            begin, end = end, end + len(rows) * tensor.row_bytes
            yield to_planar(there[begin:end].view(len(rows), tensor.row_bytes), tensor.type, tensor.shape[-1])
