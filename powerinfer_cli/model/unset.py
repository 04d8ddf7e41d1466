"""Keys that say nothing: llama.cpp, when it saves a model itself, writes every key that it knows."""

import numpy as np

from powerinfer_cli.gguf_io import GGUFFile

__all__ = ["without_unset"]

_SIGNS = ("ssm.inner_size", "wkv.head_size", "decoder_start_token_id")  # of a file that has them all
# What it writes of what a model has not, where that is not 0.
_UNSET: dict[str, object] = {
    "pooling_type": 0xFFFFFFFF,
    "decoder_start_token_id": -1,
    "deepstack_mapping": -1,
    "token_shift_count": 2,
    "expert_group_scale": 0.05,
    "expert_weights_norm": False,
    "router_logit_softcapping": 30.0,
    "attention.rope_pattern": 1,
    "attention.indexer.kpool_select_tail": True,
    "kda.gate_lower_bound": float("-inf"),
    "activation.situ_beta": 1.0,
    "rope.scaling.yarn_attn_factor": 1.0,
    "rope.scaling.finetuned": False,
    "use_parallel_residual": False,
}
_READ = {("gptneox", "use_parallel_residual"), ("granite", "rope.scaling.finetuned")}  # by llama.cpp, too


def without_unset(gguf: GGUFFile) -> GGUFFile:
    """The same file without keys that llama.cpp has saved for want of a value."""
    arch = gguf.get("general.architecture", str, "")
    if not all(f"{arch}.{key}" in gguf.metadata for key in _SIGNS):
        return gguf
    unset = {f"{arch}.{key}": value for key, value in _UNSET.items() if (arch, key) not in _READ}
    kept = {key: found for key, found in gguf.metadata.items() if key not in unset or not _is(found, unset[key])}
    return GGUFFile(gguf.path, gguf.sparse, gguf.version, kept, gguf.tensors)


def _is(found: object, value: object) -> bool:
    """Whether it is this, to float32, or an array of nothing else."""
    if isinstance(found, np.ndarray):
        return bool((found == value).all())
    return found == value or (isinstance(value, float) and isinstance(found, float) and np.float32(value) == found)
