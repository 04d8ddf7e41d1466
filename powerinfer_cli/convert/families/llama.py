"""Llama and what its code was taken from or for: rows of queries and keys are reordered for rope by neighbours."""

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.convert.conversion import Array, Change, Conversion, KeyValues, Names, Part
from powerinfer_cli.convert.families.names import LLAMA, head_keys, turned_heads
from powerinfer_cli.convert.moves import both, gate_and_up, neighbours, sections

__all__ = ["CONVERSIONS"]

MIXTRAL: Names = {
    "block_sparse_moe.gate": "ffn_gate_inp",
    "block_sparse_moe.experts.*.w1": "ffn_gate_exps",
    "block_sparse_moe.experts.*.w2": "ffn_down_exps",
    "block_sparse_moe.experts.*.w3": "ffn_up_exps",
}
INTERNLM2: Names = {
    "model.tok_embeddings": "token_embd",
    "model.norm": "output_norm",
    "output": "output",
    "attention_norm": "attn_norm",
    "attention.wo": "attn_output",
    "ffn_norm": "ffn_norm",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w2": "ffn_down",
    "feed_forward.w3": "ffn_up",
}
PLAMO: Names = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "norm": "attn_norm",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
LAYOUT = "Meta AI original pth"


def _llama(config: Config) -> Names:
    """transformers saves Mixtral's experts under either name."""
    return {**turned_heads(config), **MIXTRAL}


def _turned(config: Config) -> Names:
    return turned_heads(config)


def _internlm2(config: Config) -> Names:
    """A matrix has each key head's queries, its key and its value together."""
    n_kv, size, turned = config.n_head_kv, config.head_dim, neighbours(config.head_dim)
    group = config.n_head // max(1, n_kv)

    def of_groups(begin: int, end: int) -> Change:
        def move(rows: Array) -> Array:
            groups = rows.reshape(n_kv, group + 2, size, *rows.shape[1:])
            return groups[:, begin:end].reshape(n_kv * (end - begin) * size, *rows.shape[1:])

        return move

    parts = (
        Part("attn_q", both(of_groups(0, group), turned)),
        Part("attn_k", both(of_groups(group, group + 1), turned)),
        Part("attn_v", of_groups(group + 1, group + 2)),
    )
    return {**INTERNLM2, "attention.wqkv": parts}


def _ernie(config: Config) -> Names:
    """Its own rope turns neighbours as well: nothing is reordered. Baidu's own files have fused matrices."""
    n_q, n_kv = config.n_head * config.head_dim, config.n_head_kv * config.head_dim
    fused = sections("attn_{}", q=n_q, k=n_kv, v=n_kv)
    return {**LLAMA, "self_attn.qkv_proj": fused, "mlp.up_gate_proj": gate_and_up("ffn_{}")}


def _without_ernie(config: Config, name: str) -> str:
    return name.replace("ernie.", "model.")


def _plamo(config: Config) -> Names:
    """Query head i belongs to key head i % n_kv; in the file, those of a key head are together."""
    n_kv = _plamo_kv(config)
    group, size = config.n_head // max(1, n_kv), config.head_dim

    def queries(rows: Array) -> Array:
        return rows.reshape(group, n_kv, size, *rows.shape[1:]).swapaxes(0, 1).reshape(rows.shape)

    def output(array: Array) -> Array:
        return array.reshape(array.shape[0], group, n_kv, size).swapaxes(1, 2).reshape(array.shape)

    return {**PLAMO, "self_attn.q_proj": Part("attn_q", queries), "self_attn.o_proj": Part("attn_output", output)}


def _plamo_kv(config: Config) -> int:
    """config.json counts by how many query heads a key head is shared."""
    return config.n_head // max(1, config.integer("n_shared_head", default=8))


def _plamo_keys(config: Config) -> KeyValues:
    """The context's length is not in config.json."""
    return {
        "block_count": config.n_layer,
        "context_length": 4096,
        "embedding_length": config.n_embd,
        "feed_forward_length": config.integer("intermediate_size"),
        "attention.head_count": config.n_head,
        "attention.head_count_kv": _plamo_kv(config),
        "attention.layer_norm_rms_epsilon": config.number("rms_norm_eps"),
    }


def _layout_keys(config: Config) -> KeyValues:
    return {"tensor_data_layout": LAYOUT, "rope.dimension_count": config.n_embd // config.n_head}


LLAMA_DEFAULTS = {"rms_norm_eps": 1e-6, "rope_theta": 10000.0}
CONVERSIONS = (
    Conversion(
        "llama",
        (
            *("LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM", "MixtralForCausalLM"),
            *("ReluLlamaForCausalLM", "SparseLlamaForCausalLM"),
        ),
        _llama,
        head_keys,
        defaults=LLAMA_DEFAULTS,
    ),
    Conversion("bamboo", ("BambooForCausalLM",), _turned, head_keys, defaults=LLAMA_DEFAULTS),
    Conversion("internlm2", ("InternLM2ForCausalLM",), _internlm2, defaults=LLAMA_DEFAULTS),
    Conversion("xverse", ("XverseForCausalLM",), _turned, _layout_keys, defaults=LLAMA_DEFAULTS),
    Conversion(
        "ernie4_5",
        ("Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"),
        _ernie,
        renamed=_without_ernie,
        defaults={"rms_norm_eps": 1e-5, "rope_theta": 500000.0},
    ),
    Conversion(
        "smollm3",
        ("SmolLM3ForCausalLM",),
        _turned,
        head_keys,
        defaults={"rms_norm_eps": 1e-6, "rope_theta": 2000000.0},
    ),
    Conversion("plamo", ("PlamoForCausalLM",), _plamo, _plamo_keys, general=False, defaults={"rms_norm_eps": 1e-6}),
)
