"""A GGUF's metadata, read once: what a model as a whole is. What a layer is, its blocks say."""

import math
from dataclasses import dataclass

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGUFFile, Strings
from powerinfer_cli.model.architecture import LAYER_EPS, Architecture
from powerinfer_cli.model.blocks import Activation, FatReLU
from powerinfer_cli.model.keys import MAX_CONTEXT, MAX_SIZE, Keys
from powerinfer_cli.model.sizes import Sizes

__all__ = [
    "ACTIVATION_THRESHOLD",
    "DENSE_LAYERS",
    "POOLINGS",
    "ModelConfig",
    "pooling_of",
    "read_sizes",
    "sparse_threshold_of",
]

DENSE_LAYERS = "powerinfer.dense_layers"
"""Ours, int32 [n]: the layers of a PowerInfer file without fc1 and fc2. Their down matrix is `ffn_down`, or
`ffn_down_t`. Without the key every layer has a predictor.
"""
ACTIVATION_THRESHOLD = "powerinfer.activation_threshold"
"""Ours, of a file whose activation is FATReLU: values up to this are 0."""
MOST_THRESHOLD = 1e4


POOLINGS = ("none", "mean", "cls", "last", "rank")
"""By their number in a GGUF."""


@dataclass(frozen=True)
class ModelConfig:
    """`sparse` means that it has predictors, in all layers or in some, `n_ctx_train` that it knows positions below;
    n_ff: neurons of each layer. learned_positions: it knows no others at all. causal: texts can be gone on with; else
    they are read whole. writes: it has logits. pooling: of `POOLINGS`, how a text's vectors become one, if it says so.
    """

    architecture: Architecture
    name: str
    sparse: bool
    sparse_threshold: float
    n_layer: int
    n_embd: int
    n_ff: tuple[int, ...]
    n_vocab: int
    n_ctx_train: int
    activation: Activation
    learned_positions: bool
    causal: bool = True
    writes: bool = True
    pooling: str | None = None


def pooling_of(gguf: GGUFFile, arch: str) -> str | None:
    """What a file says; None: nothing that is known."""
    number = gguf.metadata.get(f"{arch}.pooling_type")
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < len(POOLINGS):
        return None
    return POOLINGS[number]


def read_sizes(gguf: GGUFFile, keys: Keys, arch: Architecture, *, with_guessing: bool = False) -> Sizes:
    """Read and check a GGUF's sizes. with_guessing: those layers count as layers.

    Raises:
        PowerInferError: a missing key, or sizes that do not fit together.
    """
    n_layer, n_guessing = _n_layers(gguf, keys, arch)
    if with_guessing:
        n_layer += n_guessing
    n_embd = keys.integer("embedding_length", low=1, high=MAX_SIZE)
    least = 0 if arch.gaps or arch.alone else 1
    n_head = keys.integers("attention.head_count", n_layer, low=least, high=MAX_SIZE)
    n_head_kv = _kv_heads(keys, n_layer, n_head, 0 if arch.recurrent else least)
    activation = _activation(gguf, keys, arch)
    return Sizes(
        n_layer=n_layer,
        n_guessing=n_guessing,
        n_embd=n_embd,
        n_vocab=_n_vocab(gguf, keys),
        n_ctx_train=keys.integer("context_length", low=1, high=MAX_CONTEXT),
        n_head=n_head,
        n_head_kv=n_head_kv,
        head_dim=_latent_dim(keys) if arch.latents else _head_dim(keys, n_embd, next(filter(None, n_head), 1)),
        n_ff=keys.integers("feed_forward_length", n_layer, low=least, high=MAX_SIZE),
        norm_eps=_norm_eps(keys, arch),
        activation=activation,
        curve=_curve(gguf, activation),
        predicted=_predicted(gguf, n_layer),
    )


def _n_layers(gguf: GGUFFile, keys: Keys, arch: Architecture) -> tuple[int, int]:
    """And how many there are behind the last, to guess further tokens."""
    n_layer = keys.integer("block_count", low=1, high=len(gguf.tensors))
    guessing = keys.integer("nextn_predict_layers", 0, high=MAX_SIZE) if arch.guessing_layers else 0
    if guessing >= n_layer:
        keys.fail(f"nextn_predict_layers is {guessing}, but block_count is {n_layer}")
    return n_layer - guessing, guessing


def _norm_eps(keys: Keys, arch: Architecture) -> float:
    by_other = arch.eps_of_layer_norms and arch.norm_eps_key not in keys
    return keys.number(LAYER_EPS if by_other else arch.norm_eps_key, arch.norm_eps_default, low=0.0)


def _predicted(gguf: GGUFFile, n_layer: int) -> tuple[bool, ...]:
    """Which layers have a predictor: those of a PowerInfer file that a key of ours does not name."""
    dense = gguf.get(DENSE_LAYERS, list, []) if gguf.sparse else []
    fine = all(isinstance(layer, int) and 0 <= layer < n_layer for layer in dense) and len(set(dense)) == len(dense)
    if not fine or len(dense) == n_layer:
        raise PowerInferError(
            f"{gguf.path}: {DENSE_LAYERS} must name some of the layers 0 to {n_layer - 1}, none of them twice"
        )
    return tuple(gguf.sparse and layer not in dense for layer in range(n_layer))


def _kv_heads(keys: Keys, n_layer: int, n_head: tuple[int, ...], least: int) -> tuple[int, ...]:
    key = "attention.head_count_kv"
    found = keys.integers(key, n_layer, low=least, high=max(n_head)) if key in keys else n_head
    for heads, kv in zip(n_head, found, strict=True):
        if kv > heads:
            keys.fail(f"{key} is {kv}, outside {least} to {heads}")
        if kv and heads % kv:
            keys.fail(f"attention.head_count {heads} is not a multiple of attention.head_count_kv {kv}")
    return found


def _latent_dim(keys: Keys) -> int:
    """What is kept of a token."""
    rank = keys.integer("attention.kv_lora_rank", low=1, high=MAX_SIZE)
    return rank + keys.integer("rope.dimension_count", low=2, high=MAX_SIZE)


def _head_dim(keys: Keys, n_embd: int, n_head: int) -> int:
    if "attention.key_length" not in keys and n_embd % n_head:
        keys.fail(f"embedding_length {n_embd} is not a multiple of attention.head_count {n_head}")
    head_dim = keys.integer("attention.key_length", n_embd // n_head, low=1, high=MAX_SIZE)
    value_dim = keys.integer("attention.value_length", head_dim, low=1, high=MAX_SIZE)
    if value_dim != head_dim:
        keys.fail(f"attention.value_length {value_dim} differs from attention.key_length {head_dim}: not supported")
    return head_dim


def _n_vocab(gguf: GGUFFile, keys: Keys) -> int:
    """As llama.cpp: the token list counts; the key and the embedding's rows stand in where there is no list."""
    tokens = gguf.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, Strings) and len(tokens):
        return len(tokens)
    embedding = gguf.tensors.get("token_embd.weight")
    if embedding is None and "vocab_size" not in keys:
        raise PowerInferError(f"{gguf.path}: tensor token_embd.weight is missing")
    rows = embedding.shape[0] if embedding is not None else None
    return keys.integer("vocab_size", rows, low=1, high=MAX_SIZE)


def sparse_threshold_of(gguf: GGUFFile) -> float:
    threshold = gguf.get("powerinfer.sparse_threshold", float, 0.0)
    if math.isnan(threshold):
        raise PowerInferError(f"{gguf.path}: powerinfer.sparse_threshold is not a number")
    return threshold


def _activation(gguf: GGUFFile, keys: Keys, arch: Architecture) -> Activation:
    """A PowerInfer file's neurons have ReLU, unless it says by a key of ours that they were cut by size. What an
    architecture has for its own (xIELU comes with numbers) no other has.
    """
    own = gguf.get("powerinfer.activation", str, "") if gguf.sparse else ""
    alone = (Activation.XIELU, Activation.CLAMPED_SWISH)
    fits = [arch.activation] if arch.activation in alone else [kind for kind in Activation if kind not in alone]
    if own and own not in fits:
        known = ", ".join(fits)
        raise PowerInferError(f"{gguf.path}: powerinfer.activation {own[:60]!r} is not supported (supported: {known})")
    name = keys.text("hidden_activation", own or (arch.sparse_activation if gguf.sparse else arch.activation))
    supported = [own or arch.sparse_activation] if gguf.sparse else fits
    if name not in supported:
        kind = f"a PowerInfer model{f' of {own} neurons' if own else ''}" if gguf.sparse else "a dense model"
        names = ", ".join(supported)
        keys.fail(f"hidden_activation {name[:60]!r} is not supported in {kind} (supported: {names})")
    return Activation(name)


def _curve(gguf: GGUFFile, activation: Activation) -> FatReLU | None:
    """The numbers that a key of ours tells."""
    if activation is not Activation.FATRELU:
        return None
    threshold = gguf.get(ACTIVATION_THRESHOLD, float)
    if not 0 <= threshold <= MOST_THRESHOLD:
        raise PowerInferError(f"{gguf.path}: {ACTIVATION_THRESHOLD} is {threshold}, outside 0 to {MOST_THRESHOLD:g}")
    return FatReLU(threshold)
