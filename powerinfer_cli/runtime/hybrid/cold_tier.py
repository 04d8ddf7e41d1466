"""The cold tier: what the neurons in main memory make of a layer's normed input, on the CPU."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import assert_never

import numpy as np
import numpy.typing as npt
from torch import Tensor

from powerinfer_cli.kernels.cpu.norm import quantise
from powerinfer_cli.kernels.cpu.sparse.batch import sparse_batch
from powerinfer_cli.kernels.cpu.sparse.few import sparse_few
from powerinfer_cli.kernels.cpu.sparse.token import NeuronMask, RowNeurons, sparse_token
from powerinfer_cli.kernels.cpu.vectors import N_TOKENS, Vectors, make_vectors
from powerinfer_cli.kernels.formats import padded
from powerinfer_cli.kernels.jit import Kernel
from powerinfer_cli.kernels.jit.program import CompiledProgram, Operation, assemble
from powerinfer_cli.kernels.jit.team import Team
from powerinfer_cli.runtime.batch import BatchKind
from powerinfer_cli.runtime.cpu.buffers import Room

__all__ = ["ColdBuffers", "ColdTier", "make_cold_buffers"]

Host = Callable[..., Tensor]


@dataclass(frozen=True, eq=False)
class ColdBuffers:
    """What passes between a device and the cold tier; layers share it. In memory that the device reaches by itself."""

    state: npt.NDArray[np.int64]
    normed: Tensor  # float32 [tokens * n_embd], from the device: of T tokens [T, n_embd], or [T, latents]
    mask: Tensor  # uint8 [tokens * most cold neurons], from the device: of T tokens [T, n_cold]
    result: Tensor  # float32 [tokens * padded(n_embd)], to the device: of T tokens [T, n_embd]
    few: npt.NDArray[np.float32]  # [a few tokens, padded(n_embd)]: their results, before they go to `result`
    one: Vectors
    many: Vectors

    def normed_of(self, shape: Sequence[int]) -> Tensor:
        """[T, numbers of what is read]"""
        n_tokens, n = shape
        return self.normed[: n_tokens * n].view(n_tokens, n)


def make_cold_buffers(host: Host, n_tokens: int, few: int, n_embd: int, most_cold: int) -> ColdBuffers:
    """`host` makes tensors that a device reaches. few: tokens, at most, of a batch that has one of each sequence."""
    import torch

    return ColdBuffers(
        state=np.zeros(2, np.int64),
        normed=host(n_tokens * n_embd),
        mask=host(n_tokens * most_cold, dtype=torch.uint8),
        result=host(n_tokens * padded(n_embd)),
        few=np.zeros((few, padded(n_embd)), np.float32),
        one=make_vectors(1, n_embd),
        many=make_vectors(n_tokens, n_embd),
    )


class ColdTier:
    """One layer's cold neurons.

    numbers: where they are among the rows that `neurons` has, in the mask's order; None: they are all its rows. asked:
    a mask says which of them count; else all do.
    """

    def __init__(
        self,
        neurons: RowNeurons,
        numbers: npt.NDArray[np.int32] | None,
        buffers: ColdBuffers,
        room: Room,
        team: Team,
        counts: npt.NDArray[np.int64],
        *,
        asked: bool,
        few: int,
    ) -> None:
        """counts [FEW, 2]: how many were let through, and how many fired, are added to it: of each of a few tokens, of
        many all in the first. few: tokens, at most, of a batch that has few.
        """
        self._buffers, self._team, self._asked, self._numbers = buffers, team, asked, numbers
        b, n = buffers, neurons.n_ff
        self._modes = np.zeros(n, np.uint8) if numbers is not None else b.mask.numpy()[:n]
        result = b.result.numpy()
        self.n_cold = n if numbers is None else len(numbers)
        self._bits = np.zeros(n, np.int64)
        told = None
        if asked or numbers is not None:
            told = NeuronMask(self._modes, self._bits)
        assert room.sparse is not None  # there is one where neurons are cold
        workspace = room.sparse.of(n)
        self._logits = workspace.logits
        products = room.products
        n_embd = b.one.n
        out = result[: len(b.many.floats) * n_embd].reshape(-1, n_embd)
        one = [quantise(b.state, b.one), *sparse_token(b.one, None, neurons, told, result[: padded(n_embd)], counts[0])]
        many = [
            quantise(b.state, b.many),
            *sparse_batch(b.state, b.many, None, neurons, told, out, counts[0], products, workspace),
        ]
        self._counts, self._few_counts = counts, np.zeros((few, 2), np.int64)
        apart = b.few, self._few_counts, few
        tokens = [quantise(b.state, b.many), *sparse_few(b.state, b.many, None, neurons, told, *apart, room.panels)]
        self._operations: dict[BatchKind, list[Operation]] = {
            BatchKind.ONE: one,
            BatchKind.MANY: many,
            **({BatchKind.FEW: tokens} if few > 1 else {}),
        }
        self._programs: dict[BatchKind, CompiledProgram] = {}

    @property
    def kernels(self) -> Iterable[Kernel]:
        """What must be compiled before `run`."""
        return (op.kernel for ops in self._operations.values() for op in ops)

    def take(self, begin: int, numbers: npt.NDArray[np.int32]) -> None:
        """From a place on among its neurons it has these instead; all of the layer's are in main memory."""
        assert self._numbers is not None
        held = self._numbers[begin : begin + len(numbers)]
        self._modes[held], self._bits[held] = 0, 0
        held[:] = numbers

    def run(self, n_tokens: int, threads: int, kind: BatchKind) -> Tensor:
        """The partial sums [T, n_embd], down's bias included, of what a device has put into the buffers."""
        b = self._buffers
        b.state[N_TOKENS] = n_tokens
        vectors = b.one if kind is BatchKind.ONE else b.many
        vectors.floats[:n_tokens, : vectors.n] = b.normed_of((n_tokens, vectors.n)).numpy()
        self._tell(n_tokens, kind)
        if kind not in self._programs:
            self._programs[kind] = assemble(self._operations[kind])
        self._team.run(self._programs[kind].table, threads)
        found = b.result[: n_tokens * vectors.n].view(n_tokens, vectors.n)
        if kind is BatchKind.FEW:
            found.numpy()[:] = b.few[:n_tokens, : vectors.n]
            self._counts[: len(self._few_counts)] += self._few_counts
            self._few_counts[:] = 0
        return found

    def _tell(self, n_tokens: int, kind: BatchKind) -> None:
        """Who counts: to `modes` for one token, to `bits` for a few, to the workspace's logits, which layers share, for
        a batch.
        """
        mask: npt.NDArray[np.uint8] | int = 1
        if self._asked:
            mask = self._buffers.mask.numpy()[: n_tokens * self.n_cold].reshape(n_tokens, self.n_cold)
        match kind:
            case BatchKind.ONE:
                if self._numbers is not None:
                    self._modes[self._numbers] = mask
            case BatchKind.FEW:
                weights = 1 << np.arange(n_tokens, dtype=np.int64)
                self._bits[slice(None) if self._numbers is None else self._numbers] = (
                    weights @ mask if self._asked else weights.sum()
                )
            case BatchKind.MANY:
                if self._numbers is not None:
                    self._logits[:n_tokens] = 0
                    self._logits[:n_tokens, self._numbers] = mask
                elif self._asked:
                    self._logits[:n_tokens] = mask
            case never:
                assert_never(never)
