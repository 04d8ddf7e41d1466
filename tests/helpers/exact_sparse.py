"""A random ReLU-sparse llama whose predictors are exact, and its dense twin, without trained weights.

Coordinate 0 of the residual stream keeps one value throughout. The gate matrix is U @ V with V's first row reading
that coordinate, so that U's first column sets how often each neuron fires; and fc1 = [V; -V], fc2 = [U, -U] predicts
the gate's sign without error, since relu(a) - relu(-a) = a. (RMS norm divides by a positive number: signs stay.)
"""

from statistics import NormalDist

import numpy as np

from tests.helpers.model_file import ModelFile

CONSTANT = 4.0


def exact_sparse(
    *,
    n_embd: int = 64,
    n_ff: int = 200,
    n_layer: int = 3,
    rank: int = 9,
    n_vocab: int = 80,
    active: float = 0.15,
    seed: int = 0,
) -> tuple[ModelFile, ModelFile]:
    """(sparse model, dense twin); about `active` of the neurons fire."""
    rng = np.random.default_rng(seed)
    n_head, n_kv = 4, n_embd // 2

    def normal(rows: int, columns: int, scale: float = 1.0) -> np.ndarray:
        return (rng.standard_normal((rows, columns)) * scale / columns**0.5).astype(np.float32)

    embedding = normal(n_vocab, n_embd, n_embd**0.5)
    embedding[:, 0] = CONSTANT
    ones = np.ones(n_embd, np.float32)
    tensors = {"token_embd.weight": embedding, "output_norm.weight": ones, "output.weight": normal(n_vocab, n_embd)}
    predictors = []
    for layer in range(n_layer):
        v, u = normal(rank, n_embd), normal(n_ff, rank)
        v[:, 0] = 0
        v[0] = 0
        v[0, 0] = 1
        rates = np.clip(rng.exponential(active, n_ff), 1e-4, 0.98)
        u[:, 0] = [NormalDist().inv_cdf(float(rate)) / CONSTANT for rate in rates]
        down = normal(n_embd, n_ff)
        output = normal(n_embd, n_embd, 0.3)
        down[0] = output[0] = 0  # nothing writes to the constant coordinate
        predictors.append((np.concatenate([v, -v]), np.concatenate([u, -u], axis=1)))
        tensors |= {
            f"blk.{layer}.{name}.weight": data
            for name, data in {
                "attn_norm": ones,
                "attn_q": normal(n_embd, n_embd),
                "attn_k": normal(n_kv, n_embd),
                "attn_v": normal(n_kv, n_embd),
                "attn_output": output,
                "ffn_norm": ones,
                "ffn_gate": u @ v,
                "ffn_up": normal(n_ff, n_embd),
                "ffn_down": down,
            }.items()
        }
    metadata = {
        "llama.context_length": 256,
        "llama.embedding_length": n_embd,
        "llama.block_count": n_layer,
        "llama.feed_forward_length": n_ff,
        "llama.attention.head_count": n_head,
        "llama.attention.head_count_kv": n_head // 2,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.hidden_activation": "relu",
    }
    dense = ModelFile("llama", metadata, tensors)
    return dense.sparsified(predictors), dense
