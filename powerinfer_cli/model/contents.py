"""What a file holds where that is no model which runs here, named for whoever has to find another one."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from string import digits

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import INDEX_ARCHITECTURE, GGUFFile
from powerinfer_cli.model.key_table import is_off, shown

__all__ = ["check_contents", "check_kind", "unsupported"]


@dataclass(frozen=True)
class Kind:
    """What a file is, told by any of: its general.type, its architecture, a key that is set, or false where it is
    `cleared`, a tensor's name. keys: in full, or behind the architecture. advice: what to do instead.
    """

    name: str
    advice: str
    types: frozenset[str] = frozenset()
    architectures: frozenset[str] = frozenset()
    keys: tuple[str, ...] = ()
    cleared: str = ""
    tensors: re.Pattern[str] | None = None


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


WHOLE = "give the path of the model itself"
# No models at all, though some name the architecture of one.
OTHER_FILES = (
    Kind(
        "a LoRA adapter, which changes another model",
        "merge it into that model (llama.cpp's llama-export-lora), and run what this makes",
        types=_names("adapter"),
        keys=("adapter.type",),
        tensors=re.compile(r".*\.lora_[ab]"),
    ),
    Kind(
        "a control vector, which steers another model",
        f"{WHOLE}; control vectors are not supported",
        types=_names("controlvector"),
        architectures=_names("controlvector"),
        tensors=re.compile(r"direction\.\d+"),
    ),
    Kind(
        "an importance matrix (imatrix), from which models are quantised",
        WHOLE,
        types=_names("imatrix"),
        keys=("imatrix.datasets", "imatrix.chunk_count"),
        tensors=re.compile(r".*\.(in_sum2|counts)"),
    ),
    Kind(
        "a projector of pictures or sound (mmproj), which belongs to another model",
        f"{WHOLE}, which reads text without it; pictures and sound are not supported",
        types=_names("mmproj"),
        architectures=_names("clip"),
    ),
    Kind("a placement plan (.gpuidx)", WHOLE, architectures=_names(INDEX_ARCHITECTURE)),
)
EXPERTS = Kind(
    "a mixture-of-experts model",
    "experts of this architecture do not run yet; use a dense model of the family",
    keys=("expert_count",),
    tensors=re.compile(r"blk\.\d+\.(ffn_(gate|up|down|gate_up)_(ch|sh)?exps?|ffn_gate_inp|ffn_gate\.\d+)(_.*)?\..*"),
)
LATENTS = Kind(
    "a model with latent attention (MLA)",
    "that does not run yet",
    keys=("attention.kv_lora_rank", "attention.q_lora_rank"),
    tensors=re.compile(r"blk\.\d+\.attn_(kv_a_mqa|q_a|kv_b|k_b)\..*"),
)
# Models of other kinds, the most telling first.
RECURRENT = Kind(
    "a recurrent or hybrid model (state space, delta net, RWKV, short convolution)",
    "recurrent layers do not run yet; use a dense transformer",
    architectures=_names("mamba jamba rwkv6 rwkv6qwen2 rwkv7 arwkv7 plamo2 kimi-linear kimi-k3 minimax-01 bailingmoe3"),
    keys=(
        "ssm.conv_kernel",
        "ssm.inner_size",
        "ssm.state_size",
        "ssm.time_step_rank",
        "ssm.group_count",
        "wkv.head_size",
        "shortconv.l_cache",
        "kda.head_dim",
        "attention.recurrent_layers",
        "time_mix_extra_dim",
        "token_shift_count",
    ),
    tensors=re.compile(r"blk\.\d+\.(ssm_|time_mix_|channel_mix_|shortconv\.).*"),
)
ENCODERS = Kind(
    "an encoder for embeddings, which attends to both sides and writes no text",
    "use one of bert, nomic-bert, jina-bert-v2, modern-bert, eurobert or gemma-embedding",
    architectures=_names("t5encoder neo-bert llama-embed"),
    cleared="attention.causal",
)
OTHER_MODELS = (
    ENCODERS,
    Kind(
        "a model of encoder and decoder",
        "use a model with a decoder only",
        architectures=_names("t5"),
        keys=("decoder_block_count", "decoder_start_token_id", "attention.relative_buckets_count"),
        tensors=re.compile(r"(enc|dec)\.blk\..*"),
    ),
    Kind(
        "a diffusion model, which fills in tokens in any order",
        "use a model that writes from left to right",
        architectures=_names("dream llada llada-moe rnd1"),
    ),
    Kind(
        "a decoder of speech",
        "use a model that writes text",
        architectures=_names("wavtokenizer-dec qwen3tts pockettts"),
    ),
    Kind(
        "a draft head for another model",
        WHOLE,
        architectures=_names("eagle3 dflash gemma4-assistant"),
    ),
    RECURRENT,
    EXPERTS,
    LATENTS,
)


def check_contents(gguf: GGUFFile, arch: str) -> None:
    """Raises PowerInferError: the file is no model, or one of a kind that does not run; it says of which, and why."""
    for kind in OTHER_FILES:
        if sign := _sign(gguf, arch, kind):
            raise PowerInferError(f"{gguf.path}: the file is {kind.name} ({sign}); {kind.advice}")
    general = gguf.metadata.get("general.type", "model")
    if general not in ("", "model"):
        raise PowerInferError(
            f"{gguf.path}: general.type is {str(general)[:40]!r}: the file holds no whole model; {WHOLE}"
        )
    if arch and not gguf.tensors:
        raise PowerInferError(f"{gguf.path}: the file holds no tensors, only a vocabulary: it cannot be run; {WHOLE}")


def check_kind(
    gguf: GGUFFile, arch: str, *, experts: bool = False, latents: bool = False, recurrent: bool = False
) -> None:
    """The same of an architecture that runs, with experts and latents or without. Raises PowerInferError."""
    for kind in OTHER_MODELS:
        if experts and kind is EXPERTS:
            _check_experts(gguf, arch)
        elif kind is ENCODERS or (latents and kind is LATENTS) or (recurrent and kind is RECURRENT):
            continue  # of the first, keys are heeded by each architecture's attention
        elif sign := _sign(gguf, arch, kind):
            found = f"which changes what is computed: not supported for {arch} models; it is {kind.name}"
            raise PowerInferError(f"{gguf.path}: {sign}, {found}: {kind.advice}")


def _check_experts(gguf: GGUFFile, arch: str) -> None:
    """Whether a file that has experts says how many. Raises PowerInferError."""
    pattern = EXPERTS.tensors
    name = pattern and next((name for name in gguf.tensors if pattern.fullmatch(name)), None)
    if name and is_off(gguf.metadata.get(f"{arch}.expert_count", 0)):
        holds = _one_line(f"the file holds tensor {name}, one of a mixture of experts")
        raise PowerInferError(f"{gguf.path}: {holds}, but does not say how many there are ({arch}.expert_count)")


def unsupported(gguf: GGUFFile, arch: str, supported: Mapping[str, object]) -> PowerInferError:
    """Of an architecture that does not run: its kind, the nearest that does, and what was found in the file."""
    kinds = ((kind, _sign(gguf, arch, kind)) for kind in OTHER_MODELS)
    kind, sign = next(((kind, sign) for kind, sign in kinds if sign), (None, ""))
    parts = [f"architecture {arch[:60]!r} is not supported"]
    if kind is not None:
        why = "" if sign.startswith("general.architecture") else f" ({sign})"
        parts.append(f"it is {kind.name}{why}: {kind.advice}")
    nearest = _nearest(arch, supported)
    if nearest and (kind is None or "mixture" in kind.name):
        parts.append(f"the nearest that is: {nearest}")
    parts.append(f"found: {_summary(gguf, arch)}")
    return PowerInferError(f"{gguf.path}: {'; '.join(parts)} (supported: {', '.join(supported)})")


def _nearest(arch: str, supported: Mapping[str, object]) -> str:
    """The name most like it; of those that differ in a number alone, the last. Empty: none is like it."""
    near = get_close_matches(arch, supported)
    same = [name for name in near if name.rstrip(digits) == arch.rstrip(digits)]
    return max(same, default=near[0] if near else "")


def _summary(gguf: GGUFFile, arch: str) -> str:
    """Layers, parameters, and the type of most of them."""
    layers = gguf.metadata.get(f"{arch}.block_count")
    parameters = sum(tensor.n_elements for tensor in gguf.tensors.values())
    types: Counter[str] = Counter()
    for tensor in gguf.tensors.values():
        types[tensor.type.name] += tensor.n_elements
    found = [f"{layers} layers"] if isinstance(layers, int) and not isinstance(layers, bool) else []
    if not types:
        return ", ".join([*found, "no tensors"])
    return ", ".join([*found, f"{_count(parameters)} parameters", f"mostly {types.most_common(1)[0][0]}"])


def _count(number: int) -> str:
    for unit, size in (("billion", 1e9), ("million", 1e6), ("thousand", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _sign(gguf: GGUFFile, arch: str, kind: Kind) -> str:
    """By what it is told, in words; empty: it is not of this kind."""
    general = gguf.metadata.get("general.type")
    if isinstance(general, str) and general in kind.types:
        return f"general.type is {general!r}"
    if arch in kind.architectures:
        return f"general.architecture is {arch!r}"
    for name in (name for key in kind.keys for name in (f"{arch}.{key}", key)):
        found = gguf.metadata.get(name)
        if found is not None and not is_off(found):
            return _one_line(f"{name} is {shown(found)}")
    if kind.cleared and gguf.metadata.get(f"{arch}.{kind.cleared}") is False:
        return _one_line(f"{arch}.{kind.cleared} is false")
    holds = kind.tensors and next((name for name in gguf.tensors if kind.tensors.fullmatch(name)), None)
    return _one_line(f"it holds tensor {holds}") if holds else ""


def _one_line(text: str) -> str:
    return text if text.isprintable() else repr(text)
