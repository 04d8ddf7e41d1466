"""Packs a model's matrices, one after the other, and tells how far it is."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import MadeTensor, Tensor
from powerinfer_cli.kernels.cpu.arena import Arena
from powerinfer_cli.kernels.cpu.packing import (
    OnNote,
    OnProgress,
    bundles,
    lie_together,
    pack,
    pack_side_by_side,
    packed_bytes,
)
from powerinfer_cli.kernels.cpu.rows import Bundled, WeightRows
from powerinfer_cli.kernels.cpu.vectors import aligned
from powerinfer_cli.kernels.formats import SLACK
from powerinfer_cli.kernels.jit.team import Team
from powerinfer_cli.runtime.options import LoadEvents
from powerinfer_cli.system.memory import MORE_LOCKED, available_memory, lock_memory

__all__ = ["PACKING", "Packer", "first_rows"]

PACKING = "loading weights"


class _Wishes(TypedDict):
    """Of all that is packed."""

    arena: Arena
    on_note: OnNote
    on_progress: OnProgress


class Packer:
    """`tensors`: all that will be packed, to know how much there is to do. `tables`: those of which a token needs one
    row, not all; they stay in the file where their type has kernels. bundled: by name those whose rows are bundled
    where their type can be. packed: matrices that need not be, by name. besides: bytes that will be needed, too.

    Raises PowerInferError: a type that stores no weights, or too little memory.
    """

    def __init__(
        self,
        team: Team,
        tensors: Sequence[Tensor],
        *,
        packed: Mapping[str, WeightRows],
        tables: Sequence[Tensor] = (),
        bundled: Mapping[str, Bundled],
        besides: int = 0,
        repack: bool,
        lock: bool,
        events: LoadEvents,
    ) -> None:
        self._team, self._repack, self._lock, self._events = team, repack, lock, events
        self._packed = packed
        self._tables = {tensor.name for tensor in tables}
        self._bundled = bundled
        self._total = sum(tensor.nbytes for tensor in tensors)
        self._done = 0
        self._notes: set[str] = set()
        sizes = [(self._packed_bytes(tensor), tensor.nbytes) for tensor in tensors]
        needed, in_file = sum(packed for packed, _ in sizes), sum(size for packed, size in sizes if not packed)
        _check_memory(needed, besides, advise_file=repack)
        self._scarce = needed + in_file + besides > available_memory()
        try:
            self._arena = Arena(needed)
        except MemoryError as error:
            raise PowerInferError(
                f"no memory for the weights ({self._total / 2**30:.1f} GiB): try --no-repack, which reads them "
                "from the file, or a smaller model"
            ) from error

    def pack(self, tensor: Tensor, chosen: npt.NDArray[np.int32] | None = None) -> WeightRows:
        """The matrix, or a matrix of its chosen rows alone."""
        if tensor.name in self._packed:
            return self._packed[tensor.name]
        wanted = tensor if chosen is None else _gathered(tensor, chosen)
        bundled = self.bundles(tensor)
        if bundled is None:
            return self.pack_side_by_side([wanted])[0]
        return self._counted([pack(wanted, self._team, bundled=bundled, **self._wishes())], tensor.nbytes)[0]

    def pack_scattered(self, tensor: Tensor) -> WeightRows:
        """The matrix, of which a token needs some rows here and there."""
        rows = self.pack(tensor)
        return replace(rows, on_disk=True) if self._scarce and rows.data is tensor.data else rows

    def pack_side_by_side(
        self, tensors: Sequence[Tensor], places: npt.NDArray[np.int32] | None = None
    ) -> list[WeightRows]:
        """Row 0 of each, then row 1 of each..., or each row at its place, if they may move. A table comes alone."""
        repack = self._repacks(tensors[0])
        packed = pack_side_by_side(tensors, self._team, places=places, repack=repack, **self._wishes())
        return self._counted(packed, sum(tensor.nbytes for tensor in tensors))

    def moves(self, tensors: Sequence[Tensor]) -> bool:
        """Whether rows side by side may lie in any order; else some stay in the file."""
        return lie_together(tensors, repack=self._repacks(tensors[0]))

    def bundles(self, tensor: Tensor) -> Bundled | None:
        """What a matrix will be in bundles for, if for anything."""
        purpose = self._bundled.get(tensor.name)
        return purpose if purpose and bundles(tensor.type, purpose, repack=self._repack) else None

    def _packed_bytes(self, tensor: Tensor) -> int:
        return packed_bytes(tensor, repack=self._repacks(tensor), bundled=self.bundles(tensor) is not None)

    def _wishes(self) -> "_Wishes":
        def progress(done: int, _: int) -> None:
            self._events.progress(PACKING, self._done + done, self._total)

        return {"arena": self._arena, "on_note": self._note_once, "on_progress": progress}

    def _counted(self, packed: list[WeightRows], n_bytes: int) -> list[WeightRows]:
        """What was packed of so many bytes of the file, locked where that is wished."""
        self._done += n_bytes
        for rows in packed:
            if self._lock and not lock_memory(rows.data.ctypes.data, rows.data.nbytes):
                self._lock = False
                self._events.note(f"warning: --mlock: the system lets no more memory be locked{MORE_LOCKED}")
        return packed

    def _repacks(self, tensor: Tensor) -> bool:
        return self._repack and tensor.name not in self._tables

    def _note_once(self, line: str) -> None:
        if line not in self._notes:
            self._notes.add(line)
            self._events.note(line)


def _check_memory(weights: int, besides: int, *, advise_file: bool) -> None:
    """Raises PowerInferError: the system would end the process before all of it is filled."""
    free = available_memory()
    if weights + besides <= free:
        return
    ways, context = ["a smaller model"], ""
    if advise_file:
        ways.insert(0, "--no-repack, which leaves weights in the file,")
    if weights <= free:
        ways.insert(0, "a smaller -c")
        context = f" and the context {_size(besides)}"
    raise PowerInferError(
        f"the weights need {_size(weights)}{context}, but only {_size(free)} are free: try {' or '.join(ways)}"
    )


def _size(n: int) -> str:
    return f"{n / 2**30:.1f} GiB" if n >= 2**30 else f"{n / 2**20:.0f} MiB"


def first_rows(tensor: Tensor, count: int) -> Tensor:
    """A tensor as large as so many chosen rows, to know how much there is to do."""
    return MadeTensor(tensor.name, tensor.type, (count, tensor.shape[-1]), lambda: tensor.rows()[:count], tensor.path)


def _gathered(tensor: Tensor, chosen: npt.NDArray[np.int32]) -> Tensor:
    """A copy of the chosen rows; there is room behind them, as kernels read on."""
    size = len(chosen) * tensor.row_bytes
    data = aligned(size + SLACK, huge=True)[:size]
    np.take(tensor.rows(), chosen, axis=0, out=data.reshape(len(chosen), tensor.row_bytes))
    tensor.drop_pages(0, tensor.nbytes)
    return Tensor(tensor.name, tensor.type, (len(chosen), tensor.shape[-1]), data, tensor.path)
