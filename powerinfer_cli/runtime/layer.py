"""One transformer layer, for every architecture. T tokens, H heads, D = head_dim."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from powerinfer_cli.kernels.matrix import Matrix
from powerinfer_cli.kernels.reference import attention
from powerinfer_cli.runtime.ffn import FFN

__all__ = ["Layer", "Projection", "Store", "Turn"]

NormFn = Callable[[Tensor], Tensor]
Turn = Callable[[Tensor], Tensor]  # rotates [T, H, D] by the batch's positions
Store = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # new k, v -> all k, v of the layer


@dataclass(frozen=True)
class Projection:
    """x @ W.T (+ bias)."""

    weight: Matrix
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        y = self.weight.matmul(x)
        return y if self.bias is None else y + self.bias


@dataclass(frozen=True)
class Layer:
    """Weights and norms of one layer. A parallel layer (falcon) has no ffn_norm: its FFN reads the attention's norm."""

    head_dim: int
    attn_norm: NormFn
    attn_norm_2: NormFn | None
    attn_q: Projection
    attn_k: Projection
    attn_v: Projection
    attn_q_norm: NormFn | None
    attn_k_norm: NormFn | None
    attn_output: Projection
    ffn_norm: NormFn | None
    ffn: FFN

    def forward(self, x: Tensor, turn: Turn, store: Store) -> Tensor:
        """x [T, n_embd] -> [T, n_embd]"""
        normed = self.attn_norm(x)
        attended = self._attention(self.attn_norm_2(x) if self.attn_norm_2 else normed, turn, store)
        if self.ffn_norm is None:
            return x + attended + self.ffn.forward(normed, residual=x)
        x = x + attended
        return x + self.ffn.forward(self.ffn_norm(x), residual=x)

    def _attention(self, x: Tensor, turn: Turn, store: Store) -> Tensor:
        q, k, v = (p(x).view(len(x), -1, self.head_dim) for p in (self.attn_q, self.attn_k, self.attn_v))
        if self.attn_q_norm and self.attn_k_norm:
            q, k = self.attn_q_norm(q), self.attn_k_norm(k)
        k, v = store(turn(k), v)
        return self.attn_output(attention(turn(q), k, v))
