"""One transformer layer, for every architecture. T tokens, H heads, D = head_dim."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from powerinfer_cli.kernels.matrix import Matrix
from powerinfer_cli.runtime.reference.ffn import FFN

__all__ = ["Attend", "Layer", "Projection", "Watch"]

NormFn = Callable[[Tensor], Tensor]
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # q, k and v of a batch [T, H, D], not turned yet -> [T, H * D]
Watch = Callable[[Tensor, Tensor], None]  # sees the residual [T, n_embd] and the activations [T, n_ff] of the FFN


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

    def forward(self, x: Tensor, attend: Attend, watch: Watch | None = None) -> Tensor:
        """x [T, n_embd] -> [T, n_embd]. With `watch` every neuron is computed, and shown to it."""
        normed = self.attn_norm(x)
        attended = self._attention(self.attn_norm_2(x) if self.attn_norm_2 else normed, attend)
        if self.ffn_norm is None:
            return x + attended + self._ffn(normed, x, watch)
        x = x + attended
        return x + self._ffn(self.ffn_norm(x), x, watch)

    def _ffn(self, x: Tensor, residual: Tensor, watch: Watch | None) -> Tensor:
        if watch is None:
            return self.ffn.forward(x, residual)
        values = self.ffn.values(x)
        watch(residual, values)
        return self.ffn.down_of(values)

    def _attention(self, x: Tensor, attend: Attend) -> Tensor:
        q, k, v = (p(x).view(len(x), -1, self.head_dim) for p in (self.attn_q, self.attn_k, self.attn_v))
        if self.attn_q_norm and self.attn_k_norm:
            q, k = self.attn_q_norm(q), self.attn_k_norm(k)
        return self.attn_output(attend(q, k, v))
