"""What families' conversions share: sizes as keys, and names of tensors, as llama.cpp's converter has them."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from tests.helpers.converter import LLAMA_NAMES, head_size, interleaved, llama3_divisors, rope_metadata, stored
from tests.helpers.model_file import ModelFile

Change = Callable[[str, Tensor], Tensor]

# Norms behind a block instead of before it, or as well as before it.
POST_NORM_NAMES = LLAMA_NAMES | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def unchanged(target: str, weight: Tensor) -> Tensor:
    """As it is."""
    return weight


def neighbours(config: Any) -> Change:
    """Rows of q and k so that the two of a rotated pair are neighbours."""
    head_dim = head_size(config)

    def change(target: str, weight: Tensor) -> Tensor:
        return interleaved(weight, head_dim) if "attn_q." in target or "attn_k." in target else weight

    return change


def norms_plus_one(target: str, weight: Tensor) -> Tensor:
    """The model adds 1 to a norm's weight, the file has the sum."""
    return weight + 1 if target.endswith("norm.weight") else weight


def sizes(config: Any) -> dict[str, Any]:
    """Keys of every family, without those of rope."""
    n_head = config.num_attention_heads
    found: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "block_count": config.num_hidden_layers,
        "attention.head_count": n_head,
        "attention.head_count_kv": getattr(config, "num_key_value_heads", n_head),
    }
    for name, key in (
        ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
        ("layer_norm_eps", "attention.layer_norm_epsilon"),
        ("norm_epsilon", "attention.layer_norm_epsilon"),
        ("norm_eps", "attention.layer_norm_epsilon"),
        ("head_dim", "attention.key_length"),
        ("head_dim", "attention.value_length"),
    ):
        if getattr(config, name, None) is not None:
            found[key] = getattr(config, name)
    return found


def rope_keys(config: Any) -> dict[str, Any]:
    """Base and scaling; of layers with a window too, where they have their own."""
    rope = config.rope_parameters
    found = rope_metadata(rope.get("full_attention", rope))
    if "sliding_attention" in rope:
        found["rope.freq_base_swa"] = float(rope["sliding_attention"]["rope_theta"])
    return found


def rotated(config: Any) -> dict[str, int]:
    """How much of a head is rotated, where that is a part."""
    part = config.rope_parameters.get("partial_rotary_factor", 1.0)
    return {"rope.dimension_count": int(part * head_size(config))}


def windows(config: Any) -> dict[str, Any]:
    """The window, and which layers have it."""
    pattern = [kind == "sliding_attention" for kind in config.layer_types]
    return {"attention.sliding_window": config.sliding_window, "attention.sliding_window_pattern": pattern}


def family_file(
    model: Any,
    arch: str,
    keys: Mapping[str, Any],
    names: dict[str, str] = LLAMA_NAMES,
    change: Change = unchanged,
) -> ModelFile:
    """The model as a file of `arch`; keys come without the architecture in front."""
    tensors = stored(model, names, change)
    rope = getattr(model.config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "llama3":
        tensors["rope_freqs.weight"] = llama3_divisors(model.config)
    return ModelFile(arch, {f"{arch}.{key}": value for key, value in keys.items()}, tensors)
