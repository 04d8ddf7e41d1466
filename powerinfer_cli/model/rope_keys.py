"""How a file says what rotary positions are: keys, and tensors of divisors."""

from dataclasses import dataclass
from typing import Protocol

from powerinfer_cli.gguf_io import GGUFFile, Tensor
from powerinfer_cli.model.keys import MAX_CONTEXT, Keys
from powerinfer_cli.model.rope import Rope, RopeScaling, RopeStyle
from powerinfer_cli.model.sizes import Sizes

__all__ = ["RopeKeys", "read_rope"]

LONGROPE = ("rope_factors_short.weight", "rope_factors_long.weight")


@dataclass(frozen=True)
class RopeKeys:
    """Which keys a layer's rope is read from, and what holds where these are missing. scaled: as the file has it; else
    positions count as they are. whole_pairs: see `Rope`. gain: what YaRN multiplies what is
    turned by; None: what follows from the keys.
    """

    base: str
    default_base: float
    n_rot: str
    default_n_rot: int
    scaled: bool
    whole_pairs: bool = True
    gain: float | None = None


class Reader(Protocol):
    """A file that is being read."""

    gguf: GGUFFile
    keys: Keys
    sizes: Sizes

    def tensor(self, name: str, *shape: int | None) -> Tensor: ...

    def maybe(self, name: str, *shape: int | None) -> Tensor | None: ...


def read_rope(file: Reader, asked: RopeKeys, style: RopeStyle) -> Rope:
    """Raises PowerInferError: a rope that cannot be; the message names the key, or the tensor."""
    keys, sizes = file.keys, file.sizes
    n_rot = keys.integer(asked.n_rot, asked.default_n_rot, low=2, high=sizes.head_dim)
    if n_rot % 2:
        keys.fail(f"{asked.n_rot} {n_rot} is odd")
    base = keys.number(asked.base, asked.default_base, low=1.001)
    if not asked.scaled:
        return Rope(style, n_rot, base, RopeScaling.NONE, 1.0, sizes.n_ctx_train, 1.0, None, 0.0, 32.0, 1.0)
    scaling = _scaling(file)
    short, long = _divisors(file, scaling, n_rot)
    yarn_attn = "rope.scaling.yarn_attn_factor"
    original = "rope.scaling.original_context_length"
    return Rope(
        style=style,
        n_rot=n_rot,
        base=base,
        scaling=scaling,
        factor=1.0 if scaling in (RopeScaling.NONE, RopeScaling.LONGROPE) else _factor(keys),
        n_ctx_original=keys.integer(original, sizes.n_ctx_train, low=1, high=MAX_CONTEXT),
        attn_factor=keys.number("rope.scaling.attn_factor", 1.0, low=1e-6, high=1e6),
        yarn_attn_factor=keys.number(yarn_attn, 1.0, low=1e-6, high=1e6) if yarn_attn in keys else asked.gain,
        log_multiplier=keys.number("rope.scaling.yarn_log_multiplier", 0.0, low=0.0),
        beta_fast=keys.number("rope.scaling.yarn_beta_fast", 32.0, low=1e-6, high=1e6),
        beta_slow=keys.number("rope.scaling.yarn_beta_slow", 1.0, low=1e-6, high=1e6),
        divisors=None if short is None else short.to_float32(),
        long_divisors=None if long is None else long.to_float32(),
        whole_pairs=asked.whole_pairs,
    )


def _scaling(file: Reader) -> RopeScaling:
    """Files name no type of longrope: its divisors tell."""
    kind = file.keys.text("rope.scaling.type", "linear")
    if kind not in list(RopeScaling):
        file.keys.fail(f"rope.scaling.type {kind[:60]!r} is not supported (supported: {', '.join(RopeScaling)})")
    scaling = RopeScaling(kind)
    told = scaling is not RopeScaling.YARN and any(name in file.gguf.tensors for name in LONGROPE)
    return RopeScaling.LONGROPE if told else scaling


def _factor(keys: Keys) -> float:
    """Files from before 2024 have only rope.scale_linear; 0 means "not scaled" in both."""
    key = "rope.scaling.factor" if "rope.scaling.factor" in keys else "rope.scale_linear"
    factor = keys.number(key, 0.0, low=0.0, high=1e6) or 1.0
    if factor < 1e-3:
        keys.fail(f"{key} is {factor}, which makes no sense")
    return factor


def _divisors(file: Reader, scaling: RopeScaling, n_rot: int) -> tuple[Tensor | None, Tensor | None]:
    """llama3's, or longrope's of short and of long contexts."""
    plain = file.maybe("rope_freqs.weight", n_rot // 2)
    if scaling is not RopeScaling.LONGROPE:
        return plain, None
    short, long = (file.tensor(name, n_rot // 2) for name in LONGROPE)
    return short, long
