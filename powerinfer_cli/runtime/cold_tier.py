"""The cold tier: what the neurons in main memory make of a layer's normed input, on the CPU."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from torch import Tensor

from powerinfer_cli.kernels.formats import padded
from powerinfer_cli.kernels.jit import Kernel
from powerinfer_cli.kernels.norm import quantise
from powerinfer_cli.kernels.program import Compiled, Operation, assemble
from powerinfer_cli.kernels.sparse_batch import SparseWorkspace, sparse_batch
from powerinfer_cli.kernels.sparse_token import ASK, Neurons, Told, sparse_token
from powerinfer_cli.kernels.team import Team
from powerinfer_cli.kernels.vectors import N_TOKENS, Vectors, make_vectors
from powerinfer_cli.runtime.cpu_program import Room

__all__ = ["ColdBuffers", "ColdTier", "make_cold_buffers"]

Host = Callable[..., Tensor]


@dataclass(frozen=True, eq=False)
class ColdBuffers:
    """What passes between a device and the cold tier; layers share it. In memory that the device reaches by itself."""

    state: npt.NDArray[np.int64]
    normed: Tensor  # float32 [tokens, n_embd], from the device
    mask: Tensor  # uint8 [tokens * most cold neurons], from the device: of T tokens [T, n_cold]
    result: Tensor  # float32 [tokens * padded(n_embd)], to the device: of T tokens [T, n_embd]
    one: Vectors
    many: Vectors


def make_cold_buffers(host: Host, n_tokens: int, n_embd: int, most_cold: int) -> ColdBuffers:
    """`host` makes tensors that a device reaches."""
    import torch

    return ColdBuffers(
        state=np.zeros(2, np.int64),
        normed=host(n_tokens, n_embd),
        mask=host(n_tokens * most_cold, dtype=torch.uint8),
        result=host(n_tokens * padded(n_embd)),
        one=make_vectors(1, n_embd),
        many=make_vectors(n_tokens, n_embd),
    )


class ColdTier:
    """One layer's cold neurons.

    numbers: where they are among the rows that `neurons` has, ascending; None: they are all its rows. asked: a mask
    says which of them count; else all do.
    """

    def __init__(
        self,
        neurons: Neurons,
        numbers: npt.NDArray[np.int32] | None,
        buffers: ColdBuffers,
        room: Room,
        team: Team,
        counts: npt.NDArray[np.int64],
        *,
        asked: bool,
    ) -> None:
        """counts [2]: how many were let through, and how many fired, are added to it."""
        self._buffers, self._team, self._asked, self._numbers = buffers, team, asked, numbers
        b, n = buffers, neurons.up.n_rows
        self._modes = np.zeros(n, np.uint8) if numbers is not None else b.mask.numpy()[:n]
        result = b.result.numpy()
        self.n_cold = n if numbers is None else len(numbers)
        told = Told(self._modes, np.full(n, ASK, np.uint8)) if asked or numbers is not None else None
        workspace = _workspace(room, n)
        self._logits = workspace.logits
        products = room.products
        n_embd = b.one.n
        out = result[: len(b.many.floats) * n_embd].reshape(-1, n_embd)
        one = [quantise(b.state, b.one), *sparse_token(b.one, None, neurons, told, result[: padded(n_embd)], counts)]
        many = [
            quantise(b.state, b.many),
            *sparse_batch(b.state, b.many, None, neurons, told, out, counts, products, workspace),
        ]
        self._operations: tuple[list[Operation], list[Operation]] = one, many
        self._one: Compiled | None = None
        self._many: Compiled | None = None

    @property
    def kernels(self) -> Iterable[Kernel]:
        """What must be compiled before `run`."""
        return (op.kernel for ops in self._operations for op in ops)

    def run(self, n_tokens: int, threads: int) -> Tensor:
        """The partial sums [T, n_embd], down's bias included, of what a device has put into the buffers."""
        b = self._buffers
        b.state[N_TOKENS] = n_tokens
        vectors = b.one if n_tokens == 1 else b.many
        vectors.floats[:n_tokens, : vectors.n] = b.normed.numpy()[:n_tokens]
        self._tell(n_tokens)
        if n_tokens == 1:
            self._one = self._one or assemble(self._operations[0])
            self._team.run(self._one.table, threads)
        else:
            self._many = self._many or assemble(self._operations[1])
            self._team.run(self._many.table, threads)
        return b.result[: n_tokens * vectors.n].view(n_tokens, vectors.n)

    def _tell(self, n_tokens: int) -> None:
        """Who counts: to `modes` for one token, to the workspace's logits, which layers share, for a batch."""
        mask: npt.NDArray[np.uint8] | int = 1
        if self._asked:
            mask = self._buffers.mask.numpy()[: n_tokens * self.n_cold].reshape(n_tokens, self.n_cold)
        if n_tokens == 1:
            if self._numbers is not None:
                self._modes[self._numbers] = mask
        elif self._numbers is not None:
            self._logits[:n_tokens] = 0
            self._logits[:n_tokens, self._numbers] = mask
        elif self._asked:
            self._logits[:n_tokens] = mask


def _workspace(room: Room, n: int) -> SparseWorkspace:
    """The shared one, its logits in rows of n."""
    shared = room.sparse
    assert shared is not None  # only sparse models have cold neurons
    flat = shared.logits.reshape(-1)
    return replace(shared, logits=flat[: len(shared.logits) * n].reshape(-1, n))
