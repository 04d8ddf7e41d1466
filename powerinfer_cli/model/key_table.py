"""What is done with each metadata key that llama.cpp knows, for the architectures that run here.

A key that changes what is computed is honoured, or its file is refused unless the value changes nothing. Keys are
those behind `<architecture>.` unless they are written in full.
"""

from collections.abc import Mapping, Set
from typing import Any

import numpy as np

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGUFFile

__all__ = ["HONOURED", "IRRELEVANT", "NEUTRAL", "WITH_EXPERTS", "check_keys", "is_off", "key_notes", "shown"]

# Read for every architecture, `attention.sliding_window` as the longest context that is exact without a window where
# an architecture has none; the last by the server's embeddings.
HONOURED = frozenset(
    [
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "vocab_size",
        "hidden_activation",
        "expert_count",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.value_length",
        "attention.layer_norm_epsilon",
        "attention.layer_norm_rms_epsilon",
        "attention.sliding_window",
        "rope.dimension_count",
        "rope.freq_base",
        "rope.scale_linear",
        "rope.scaling.type",
        "rope.scaling.factor",
        "rope.scaling.attn_factor",
        "rope.scaling.original_context_length",
        "rope.scaling.yarn_log_multiplier",
        "rope.scaling.yarn_attn_factor",
        "rope.scaling.yarn_beta_fast",
        "rope.scaling.yarn_beta_slow",
        "pooling_type",
        "classifier.pooling_type",
    ]
)

# They say how a file was made or trained, or belong to parts that are refused by another key; of layers with a window,
# `read_model` holds them against what these are.
IRRELEVANT = frozenset(
    [
        "tensor_data_layout",
        "rope.scaling.finetuned",
        "classifier.output_labels",
        "attention.sliding_window_pattern",
        "rope.freq_base_swa",
        "rope.dimension_count_swa",
        "attention.key_length_swa",
        "attention.value_length_swa",
        "attention.key_length_mla_swa",
        "attention.value_length_mla_swa",
        "attention.kv_lora_rank_swa",
    ]
)

# Without experts they say nothing; with experts they are heeded, or refused unless they ask for nothing.
WITH_EXPERTS = frozenset(
    [
        "leading_dense_block_count",
        "expert_feed_forward_length",
        "expert_shared_feed_forward_length",
        "expert_chunk_feed_forward_length",
        "expert_used_count",
        "expert_shared_count",
        "expert_group_count",
        "expert_group_used_count",
        "expert_weights_scale",
        "expert_weights_norm",
        "expert_latent_length",
        "expert_gating_func",
        "expert_group_scale",
        "experts_per_group",
        "moe_every_n_layers",
        "moe_latent_size",
        "interleave_moe_layer_step",
        "router_logit_softcapping",
    ]
)

_OFF, _ONE = (0, False, ""), (0, 1)  # not set; or a factor that is 1
# The values that change nothing. A file with any other is refused.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "attention.causal": (True,),
    "rope.scaling.yarn_ext_factor": (-1,),
    "attn_logit_softcapping": (*_OFF, 50.0),  # what llama.cpp saves of models that have none
    "final_logit_softcapping": (*_OFF, 30.0),
    **dict.fromkeys(
        [
            "logit_scale",
            "residual_scale",
            "embedding_scale",
            "attention.output_scale",
            "attention.value_scale",
            "rope.scaling.alpha",
            "num_loops",
            "full_attention_interval",
        ],
        _ONE,
    ),
    **dict.fromkeys(
        [
            "embedding_length_out",
            "embedding_length_per_layer_input",
            "features_length",
            "attn_res.block_size",
            "activation.situ_beta",
            "activation.situ_linear_beta",
            "activation_sparsity_scale",
            "altup.active_idx",
            "altup.num_inputs",
            "swiglu_clamp_exp",
            "swiglu_clamp_shexp",
            "use_parallel_residual",
            "nextn_predict_layers",
            "n_deepstack_layers",
            "deepstack_mapping",
            "decoder_start_token_id",
            "decoder_block_count",
            "swin_norm",
            "rescale_every_n_layers",
            "time_mix_extra_dim",
            "time_decay_extra_dim",
            "adapters.count",
            "adapters.token_ids_activate",
            "adapters.token_ids_substitute",
            "adapters.lora_rank",
            "adapters.router_gain",
            "token_shift_count",
            "skip_loop_final_norm",
            "hrm.layers_per_stack",
            "hrm.h_cycles",
            "hrm.l_cycles",
            "hrm.prefix_lm",
            "hash_layer_count",
            "attention.max_alibi_bias",
            "attention.clamp_kqv",
            "attention.group_norm_epsilon",
            "attention.group_norm_groups",
            "attention.q_lora_rank",
            "attention.kv_lora_rank",
            "attention.decay_lora_rank",
            "attention.iclr_lora_rank",
            "attention.value_residual_mix_lora_rank",
            "attention.gate_lora_rank",
            "attention.relative_buckets_count",
            "attention.rope_pattern",
            "attention.scale",
            "attention.temperature_length",
            "attention.temperature_scale",
            "attention.key_length_mla",
            "attention.value_length_mla",
            "attention.indexer.head_count",
            "attention.indexer.key_length",
            "attention.indexer.top_k",
            "attention.indexer.block_size",
            "attention.indexer.local_blocks",
            "attention.indexer.types",
            "attention.indexer.kpool",
            "attention.indexer.kpool_select_tail",
            "attention.output_group_count",
            "attention.output_lora_rank",
            "attention.compress_rope_freq_base",
            "attention.compress_ratios",
            "attention.shared_kv_layers",
            "attention.recurrent_layers",
            "hyper_connection.count",
            "hyper_connection.sinkhorn_iterations",
            "hyper_connection.epsilon",
            "hyper_connection.magnitude",
            "hyper_connection.low_rank",
            "ple.layers",
            "ple.ngram_size",
            "ple.heads_per_ngram",
            "ple.conv_kernel",
            "ple.layer_multipliers",
            "ple.head_offsets",
            "ple.head_vocab_sizes",
            "ple.eos_token_id",
            "ple.image_token_id",
            "rope.dimension_sections",
            "ssm.conv_kernel",
            "ssm.inner_size",
            "ssm.state_size",
            "ssm.time_step_rank",
            "ssm.group_count",
            "ssm.dt_b_c_rms",
            "kda.head_dim",
            "kda.safe_gate",
            "kda.gate_lower_bound",
            "wkv.head_size",
            "posnet.embedding_length",
            "posnet.block_count",
            "convnext.embedding_length",
            "convnext.block_count",
            "target_layers",
            "target_hidden_size",
            "norm_before_residual",
            "norm_before_fc",
            "block_size",
            "conv_kernel_size",
            "conv_group_size",
            "selector_rank",
            "selector_top_k",
            "shortconv.l_cache",
            "dense_2_feat_in",
            "dense_2_feat_out",
            "dense_3_feat_in",
            "dense_3_feat_out",
        ],
        _OFF,
    ),
}

_POOLINGS = (-1, 0, 1, 2, 3, 4)  # unspecified, none, mean, cls, last, rank
_SAMPLING = "general.sampling."
_SUPPRESSED = "tokenizer.ggml.suppress_tokens"


def check_keys(
    gguf: GGUFFile,
    arch: str,
    asked: Set[str],
    same: Mapping[str, float],
    own: Mapping[str, tuple[object, ...]],
    *,
    experts: bool = False,
) -> None:
    """Raises PowerInferError: a key asks for what is not computed.

    asked: keys that are honoured. same: what each of some keys may say as well. own: an architecture's neutral values.
    experts: the model has some.
    """
    of_experts = dict.fromkeys(WITH_EXPERTS, _OFF) if experts else {}
    for key, values in {**NEUTRAL, **of_experts, **own}.items():
        found = gguf.metadata.get(f"{arch}.{key}")
        if key in asked or found is None:
            continue
        if not _changes_nothing(found, (*values, *(same[k] for k in (key,) if k in same))):
            raise PowerInferError(
                f"{gguf.path}: {arch}.{key} is {shown(found)}, which changes what is computed: not supported for "
                f"{arch} models"
            )


def key_notes(gguf: GGUFFile, arch: str) -> list[str]:
    """Remarks, one line each, on keys that are not heeded and that no file is refused for."""
    known = HONOURED | IRRELEVANT | WITH_EXPERTS | NEUTRAL.keys()
    own = [key for key in gguf.metadata if key.startswith(f"{arch}.")]
    unknown = [key for key in own if key.partition(".")[2] not in known]
    sampling = [key for key in gguf.metadata if key.startswith(_SAMPLING)]
    notes = []
    if unknown:
        notes.append(f"warning: {_listed(unknown)}: metadata of unknown meaning, ignored")
    if sampling:
        values = [f"{key.removeprefix(_SAMPLING)} {shown(gguf.metadata[key])}" for key in sampling]
        notes.append(
            f"note: the model's author suggests for sampling: {_listed(values)}; use the options to follow that"
        )
    pooling = gguf.metadata.get(f"{arch}.pooling_type", 0)
    if not isinstance(pooling, int) or pooling not in _POOLINGS:
        notes.append(
            f"warning: {arch}.pooling_type is {shown(pooling)}, which is not supported: vectors of a text "
            "are not made one (see --pooling)"
        )
    if _SUPPRESSED in gguf.metadata:
        notes.append(f"warning: {_SUPPRESSED} is ignored: tokens may be written that the model's author rules out")
    return notes


def _changes_nothing(found: object, values: tuple[object, ...]) -> bool:
    """Whether a value, or each of an array, is one of these."""
    each = found.tolist() if isinstance(found, np.ndarray) else found if isinstance(found, list) else [found]
    return all(any(one == value or _near(one, value) for value in values) for one in each)


def _near(found: object, value: object) -> bool:
    return isinstance(value, float) and isinstance(found, int | float) and abs(found - value) <= 1e-5 * abs(value)


def is_off(found: object) -> bool:
    """Whether a key says that there is nothing of what it is about."""
    return _changes_nothing(found, _OFF)


def shown(value: Any) -> str:
    """A value as messages have it: short, on one line."""
    text = str(value[:20].tolist() if isinstance(value, np.ndarray) else value)
    text = {"True": "true", "False": "false"}.get(text, text)
    return text if len(text) <= 40 and text.isprintable() else f"{text[:40]!r}..."


def _listed(names: list[str]) -> str:
    first = [name if name.isprintable() else repr(name) for name in (name[:60] for name in names[:5])]
    return ", ".join(first) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
