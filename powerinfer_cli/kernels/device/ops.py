"""Every operation of a layer on a device, and the choice between Triton kernels and their twins in torch.

T tokens, D = head_dim; rows are PlanarRows; vectors are contiguous float32 on the rows' device. With `out` the result
is put there, and is what is returned. More: `reference.Ops`, and
`reference_attention`, `reference_recurrent`, `whole_texts`.

    dequantize(rows, dtype=float32) -> [n_rows, n_cols]
    matvec(rows, x [n_cols], bias=None, out=None) -> [n_rows]
    chosen_rows(rows, x [n_cols], indices int64 [n] or -1, out=None) -> [n]
    matmul(rows, x [T, n_cols], bias=None, out=None) -> [T, n_rows]
    matmul_t(rows, x [T, n_rows], out=None) -> [T, n_cols]
    multiply(rows, x [T, n_cols], bias=None, out=None) -> [T, n_rows]; T 1: matvec
    linear(Linear of rows, x [T, n_cols], out=None) -> [T, n_rows]
    multiply_heads(rows, x [T, H, n_cols]) -> [T, H, n_rows / H]
    predict(fc1, fc2, x [n_embd] or [T, n_embd], threshold, modes=None, out=None) -> uint8 [n] or [T, n]
    activated(gate | None, up, activation, *, relu_on_up=False, curve=None, out=None) -> like up
    values_of(Neurons of rows, gate | None, up, out=None) -> like up
    sparse_ffn(x [n_embd], mask uint8 | None, Neurons of rows, *, entries=None, out=None)
               -> (y [n_embd], fired int64 [1])
    sparse_ffn_batch(the same; x [T, n_embd], mask [T, n]) -> (y [T, n_embd], fired int64 [T])
    add_experts(x [T, n_embd], chosen int64 [T, k], weights [T, k], slots int64 [E], Neurons of rows, out, *,
                on_input=False) -> out, [T, n_embd]
    add_norm(x [T, n] or [n], adds, weight, bias, eps, kind, out=None, *, scale=1.0) -> like x, which has the adds added
    norm(Norm, x, adds=(), out=None, *, scale=1.0): add_norm
    rope_store(q [T, H * D], k, v [T, H_kv * D] | None, cache, positions, cells int64 [T],
               cos, sin [positions, n_rot / 2] | None, style | None, *, norms=None)
    attention(q [T, H * D], cache, n_past int64 [1], pages int64 [pages], *, scale, window=None, softcap=None,
              alibi=None, temperature=None, sinks=None, chunk=None, limit=None, begin=0, parts=False, out=None)
              -> [T, H * D]; parts: [T, H * (D + 2)]
    turn(q [T, H * D], k, v [T, H_kv * D], D, positions int64 [T], cos, sin [positions, n_rot / 2] | None,
         style | None, *, norms=None)
    attention_of_text(q [T, H * D], k, v [T, H_kv * D], D, *, scale, softcap=None, alibi=None, reach=None, out=None)
                      -> [T, H * D]
    join(own, other [T, H * (D + 2)], sinks [H] | None, out) -> out, [T, H * D]
    convolve(x [T, C], states [S, n], sequence, n_past int64 [1], Convolution, *, before=None, after=None,
             activate=False) -> [T, C]
    delta_rule(DeltaNet, mixed [T, C], alpha, beta [T, H], states [S, n], sequence, n_past int64 [1], out=None)
               -> [T, H * D]
    scan(Mamba2, mixed [T, C], steps [T, H], states [S, n], sequence, n_past int64 [1]) -> [T, H * D]
    gate_groups(x, gate [T, n], n_groups, norm | None) -> [T, n]

For up to ONE_BY_ONE tokens every operation but matmul_t and attention_of_text can be recorded in a CUDA graph,
attention for one: shapes are static, and nothing is asked back from the device. Without `out` results are new tensors,
in a graph of its own pool. Run what is to be recorded once before: kernels are compiled when they are first called.
"""

import os

import torch

from powerinfer_cli.kernels.device.reference import Ops

__all__ = ["Ops", "ops_for"]


def ops_for(device: torch.device | str) -> Ops:
    """The operations for a device: Triton's kernels on CUDA and, under TRITON_INTERPRET=1, anywhere; else torch's.

    `name` says which. A CUDA device without Triton (as on Windows), or with one from before 3.3, has torch's.
    """
    if torch.device(device).type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return Ops()
    try:
        from powerinfer_cli.kernels.device.triton_ops import TritonOps
    except ImportError:
        return Ops()
    return TritonOps()
