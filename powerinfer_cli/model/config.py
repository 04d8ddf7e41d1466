"""ModelConfig: a GGUF's metadata, read once. No other file spells a metadata key of a model's sizes."""

import math
from dataclasses import dataclass
from enum import StrEnum

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGUFFile
from powerinfer_cli.model.architecture import Activation, Architecture, RopeStyle
from powerinfer_cli.model.falcon import FALCON
from powerinfer_cli.model.keys import check_keys
from powerinfer_cli.model.llama import BAMBOO, LLAMA, QWEN2, QWEN3
from powerinfer_cli.model.metadata import ArchitectureKeys
from powerinfer_cli.model.opt import OPT, POSITION_OFFSET
from powerinfer_cli.model.tensors import Sizes

__all__ = ["ModelConfig", "RopeConfig", "RopeScaling"]

ARCHITECTURES = {a.name: a for a in (LLAMA, BAMBOO, FALCON, OPT, QWEN2, QWEN3)}

MAX_SIZE = 1 << 24  # no width, head count or vocabulary is larger; what claims to be is not a model
MAX_CONTEXT = 1 << 28


class RopeScaling(StrEnum):
    NONE = "none"
    LINEAR = "linear"
    YARN = "yarn"


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding. `factor` stretches positions (linear, YaRN); llama3's factors are a tensor."""

    style: RopeStyle
    n_rot: int  # leading dimensions of a head that are rotated
    base: float
    scaling: RopeScaling
    factor: float
    n_ctx_original: int
    attn_factor: float
    yarn_attn_factor: float | None  # replaces the gain that follows from YaRN's factor
    log_multiplier: float
    beta_fast: float
    beta_slow: float


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and kind of a model. `sparse` means that it has predictors, `n_ctx_train` that it knows positions below."""

    architecture: Architecture
    name: str
    sparse: bool
    sparse_threshold: float
    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_vocab: int
    n_ctx_train: int
    norm_eps: float
    activation: Activation
    rope: RopeConfig | None

    @classmethod
    def from_gguf(cls, gguf: GGUFFile) -> "ModelConfig":
        """Read and check a GGUF's sizes.

        Raises:
            PowerInferError: an unknown architecture, a missing key, or sizes that do not fit together.
        """
        arch = _architecture(gguf)
        keys = ArchitectureKeys(gguf, arch.name)
        if keys.integer("expert_count", 0):
            raise PowerInferError(f"{gguf.path}: mixture-of-experts models are not supported (expert_count is not 0)")
        if not gguf.tensors:
            raise PowerInferError(f"{gguf.path}: the file holds no tensors, only a vocabulary: it cannot be run")
        n_layer = keys.integer("block_count", low=1, high=len(gguf.tensors))
        n_embd = keys.integer("embedding_length", low=1, high=MAX_SIZE)
        n_head = keys.integer("attention.head_count", low=1, high=MAX_SIZE)
        n_head_kv = keys.integer("attention.head_count_kv", n_head, low=1, high=n_head)
        head_dim = _head_dim(keys, n_embd, n_head)
        if n_head % n_head_kv:
            keys.fail(f"attention.head_count {n_head} is not a multiple of attention.head_count_kv {n_head_kv}")
        n_ctx_train = keys.integer("context_length", low=1, high=MAX_CONTEXT)
        check_keys(gguf, arch, {"attention.scale": head_dim**-0.5, "embedding_length_out": float(n_embd)})
        return cls(
            architecture=arch,
            name=gguf.get("general.name", str, gguf.path.stem),
            sparse=gguf.sparse,
            sparse_threshold=_sparse_threshold(gguf),
            n_layer=n_layer,
            n_embd=n_embd,
            n_ff=keys.integer("feed_forward_length", low=1, high=MAX_SIZE),
            n_head=n_head,
            n_head_kv=n_head_kv,
            head_dim=head_dim,
            n_vocab=_n_vocab(gguf, keys),
            n_ctx_train=min(_positions(gguf, arch, n_ctx_train), _window(keys)),
            norm_eps=keys.number(arch.norm_eps_key, arch.norm_eps_default, low=0.0),
            activation=_activation(gguf, keys, arch),
            rope=_rope(keys, arch, head_dim, n_ctx_train),
        )

    @property
    def sizes(self) -> Sizes:
        """The sizes that tensor shapes are made of."""
        return Sizes(
            n_embd=self.n_embd,
            n_ff=self.n_ff,
            n_q=self.n_head * self.head_dim,
            n_kv=self.n_head_kv * self.head_dim,
            head_dim=self.head_dim,
            n_rot=self.rope.n_rot if self.rope else 0,
            n_vocab=self.n_vocab,
            sparse=self.sparse,
        )


def _architecture(gguf: GGUFFile) -> Architecture:
    name = gguf.get("general.architecture", str, "")
    if not name:
        raise PowerInferError(f"{gguf.path}: general.architecture is missing: the file does not describe a model")
    if name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise PowerInferError(f"{gguf.path}: architecture {name[:60]!r} is not supported (supported: {known})")
    return ARCHITECTURES[name]


def _head_dim(keys: ArchitectureKeys, n_embd: int, n_head: int) -> int:
    if "attention.key_length" not in keys and n_embd % n_head:
        keys.fail(f"embedding_length {n_embd} is not a multiple of attention.head_count {n_head}")
    head_dim = keys.integer("attention.key_length", n_embd // n_head, low=1, high=MAX_SIZE)
    value_dim = keys.integer("attention.value_length", head_dim, low=1, high=MAX_SIZE)
    if value_dim != head_dim:
        keys.fail(f"attention.value_length {value_dim} differs from attention.key_length {head_dim}: not supported")
    return head_dim


def _n_vocab(gguf: GGUFFile, keys: ArchitectureKeys) -> int:
    """As llama.cpp: the token list counts; the key and the embedding's rows stand in where there is no list."""
    tokens = gguf.get("tokenizer.ggml.tokens", list, [])
    if tokens:
        return len(tokens)
    embedding = gguf.tensors.get("token_embd.weight")
    if embedding is None and "vocab_size" not in keys:
        raise PowerInferError(f"{gguf.path}: tensor token_embd.weight is missing")
    rows = embedding.shape[0] if embedding is not None else None
    return keys.integer("vocab_size", rows, low=1, high=MAX_SIZE)


def _positions(gguf: GGUFFile, arch: Architecture, n_ctx_train: int) -> int:
    """How many positions the model knows."""
    if not arch.learned_positions:
        return n_ctx_train
    table = gguf.tensors.get("position_embd.weight")
    rows = table.shape[0] if table is not None else 0
    if rows <= POSITION_OFFSET:
        raise PowerInferError(f"{gguf.path}: tensor position_embd.weight is missing or has no positions")
    return min(n_ctx_train, rows - POSITION_OFFSET)


def _window(keys: ArchitectureKeys) -> int:
    """Attention here sees everything, which is the same as a sliding window up to the window's length."""
    return keys.integer("attention.sliding_window", 0, high=MAX_CONTEXT) or MAX_CONTEXT


def _sparse_threshold(gguf: GGUFFile) -> float:
    threshold = gguf.get("powerinfer.sparse_threshold", float, 0.0)
    if math.isnan(threshold):
        raise PowerInferError(f"{gguf.path}: powerinfer.sparse_threshold is not a number")
    return threshold


def _activation(gguf: GGUFFile, keys: ArchitectureKeys, arch: Architecture) -> Activation:
    """A PowerInfer file's neurons have ReLU, unless it says by a key of ours that they were cut by size."""
    own = gguf.get("powerinfer.activation", str, "") if gguf.sparse else ""
    if own and own not in list(Activation):
        known = ", ".join(Activation)
        raise PowerInferError(f"{gguf.path}: powerinfer.activation {own[:60]!r} is not supported (supported: {known})")
    name = keys.text("hidden_activation", own or (arch.sparse_activation if gguf.sparse else arch.dense_activation))
    supported = [own or Activation.RELU] if gguf.sparse else list(Activation)
    if name not in supported:
        kind = f"a PowerInfer model{f' of {own} neurons' if own else ''}" if gguf.sparse else "a dense model"
        names = ", ".join(supported)
        keys.fail(f"hidden_activation {name[:60]!r} is not supported in {kind} (supported: {names})")
    return Activation(name)


def _rope(keys: ArchitectureKeys, arch: Architecture, head_dim: int, n_ctx_train: int) -> RopeConfig | None:
    if arch.rope_style is None:
        return None
    n_rot = keys.integer("rope.dimension_count", head_dim, low=2, high=head_dim)
    if n_rot % 2:
        keys.fail(f"rope.dimension_count {n_rot} is odd")
    kind = keys.text("rope.scaling.type", "linear")
    if kind not in list(RopeScaling):
        keys.fail(f"rope.scaling.type {kind[:60]!r} is not supported (supported: {', '.join(RopeScaling)})")
    scaling = RopeScaling(kind)
    yarn_attn = "rope.scaling.yarn_attn_factor"
    return RopeConfig(
        style=arch.rope_style,
        n_rot=n_rot,
        base=keys.number("rope.freq_base", 10000.0, low=1.001),
        scaling=scaling,
        factor=1.0 if scaling is RopeScaling.NONE else _rope_factor(keys),
        n_ctx_original=keys.integer("rope.scaling.original_context_length", n_ctx_train, low=1, high=MAX_CONTEXT),
        attn_factor=keys.number("rope.scaling.attn_factor", 1.0),
        yarn_attn_factor=keys.number(yarn_attn, 1.0) if yarn_attn in keys else None,
        log_multiplier=keys.number("rope.scaling.yarn_log_multiplier", 0.0, low=0.0),
        beta_fast=keys.number("rope.scaling.yarn_beta_fast", 32.0, low=1e-6, high=1e6),
        beta_slow=keys.number("rope.scaling.yarn_beta_slow", 1.0, low=1e-6, high=1e6),
    )


def _rope_factor(keys: ArchitectureKeys) -> float:
    """Files from before 2024 have only rope.scale_linear; 0 means "not scaled" in both."""
    key = "rope.scaling.factor" if "rope.scaling.factor" in keys else "rope.scale_linear"
    factor = keys.number(key, 0.0, low=0.0, high=1e6) or 1.0
    if factor < 1e-3:
        keys.fail(f"{key} is {factor}, which makes no sense")
    return factor
