"""What keys say of a model's sizes."""

from dataclasses import dataclass

from powerinfer_cli.model.blocks import Activation, FatReLU

__all__ = ["Sizes"]


@dataclass(frozen=True)
class Sizes:
    """Tuples have an entry a layer. predicted: whether a predictor says which of its neurons count. n_guessing: layers
    behind the last, which guess further tokens. curve: of all its neurons, where their activation has such numbers.
    """

    n_layer: int
    n_guessing: int
    n_embd: int
    n_vocab: int
    n_ctx_train: int
    n_head: tuple[int, ...]
    n_head_kv: tuple[int, ...]
    head_dim: int
    n_ff: tuple[int, ...]
    norm_eps: float
    activation: Activation
    curve: FatReLU | None
    predicted: tuple[bool, ...]
