"""Per-layer embeddings, as Gemma 3n and 4 have them: a row of a table for each token, beside the residual stream."""

from dataclasses import replace

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.blocks import InputGate, LayerInputs
from powerinfer_cli.model.cuts import scaled
from powerinfer_cli.model.keys import MAX_SIZE
from powerinfer_cli.model.tensors import LayerReader, ModelReader

__all__ = ["input_gate", "layer_inputs"]

KEY, TABLE = "embedding_length_per_layer_input", "per_layer_token_embd.weight"


def layer_inputs(model: ModelReader) -> LayerInputs[Tensor, Tensor] | None:
    """(table[id] * sqrt(width) + norm(projection(x) / sqrt(n_embd))) / sqrt(2); None: the file has none.

    What is divided by c before a norm has an epsilon c squared times as large instead.
    """
    width = model.keys.integer(KEY, 0, high=MAX_SIZE)
    if not width:
        return None
    found, n_layer, n_embd = model.gguf.tensors.get(TABLE), model.sizes.n_layer, model.n_embd
    if found is None:
        model.keys.fail(f"{KEY} is {width}, but tensor {TABLE} is missing")
    if found.shape[-1] != n_layer * width:
        shape = " x ".join(map(str, found.shape))
        model.fail(f"tensor {TABLE} has shape {shape}, but {model.arch.name}.{KEY} is {width} for {n_layer} layers")
    tokens = model.tensor(TABLE, model.sizes.n_vocab, n_layer * width)
    projection = model.linear("per_layer_model_proj", n_layer * width, n_embd, "none")
    norm = model.norm("per_layer_proj_norm", width)
    norm = replace(norm, eps=norm.eps * n_embd, weight=scaled(norm.weight, 0.5**0.5))
    return LayerInputs(width, n_layer, (width / 2) ** 0.5, tokens, projection, norm)


def input_gate(t: LayerReader, gain: float) -> InputGate[Tensor, Tensor] | None:
    """Of the stream divided by `gain`; None: the file has none."""
    width = t.keys.integer(KEY, 0, high=MAX_SIZE)
    if not width:
        return None
    gate, output = t.linear("inp_gate", width, t.n_embd, "none"), t.linear("proj", t.n_embd, width, "none")
    activation = t.model.sizes.activation
    return InputGate(t.index, width, activation, gain, gate, output, t.norm("post_norm"))
