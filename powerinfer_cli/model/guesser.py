"""The layer behind a model's last one, which guesses one token more than the model does: a model of its own."""

from dataclasses import replace

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGUFFile, Tensor
from powerinfer_cli.model.blocks import Embedding, Fusion, Head, Layer, Linear
from powerinfer_cli.model.config import read_sizes
from powerinfer_cli.model.cuts import columns
from powerinfer_cli.model.keys import Keys
from powerinfer_cli.model.model import Model
from powerinfer_cli.model.tensors import LayerReader, ModelReader
from powerinfer_cli.model.unset import without_unset

__all__ = ["read_guesser"]


def read_guesser(gguf: GGUFFile, model: Model) -> Model:
    """Of a model's file: one layer, whose embedding reads hidden states as well. Of several, which guess one after the
    other, it is the first. Tensors as llama.cpp names them, `blk.N.nextn.*`; embedding, head and last norm are the
    model's where it has none of its own.

    Raises:
        PowerInferError: there is none, or a tensor is missing, too many or of another shape.
    """
    arch, gguf = model.config.architecture, without_unset(gguf)
    keys = Keys(gguf, arch.name)
    first = read_sizes(gguf, keys, arch).n_layer
    prefix = f"blk.{first}."
    if f"{prefix}nextn.eh_proj.weight" not in gguf.tensors:
        raise PowerInferError(
            f"{gguf.path}: the model has no extra heads to draft with (nextn layers): --spec-type ngram, or -md FILE"
        )
    reader = ModelReader(gguf, arch, keys, read_sizes(gguf, keys, arch, with_guessing=True))
    part = LayerReader(reader, first, guesses=True)
    embedding, head = _ends(part, model)
    layer = arch.layer(part)
    extra = next((name for name in gguf.tensors if name.startswith(prefix) and name not in reader.taken), None)
    if extra is not None:
        raise PowerInferError(f"{gguf.path}: unexpected tensor {extra} in a layer that guesses tokens")
    config = replace(model.config, sparse=False, n_layer=1, n_ff=(layer.ffn.neurons.n_ff,))
    return Model(config, embedding, (layer,), head, _n_bytes(gguf, reader, layer, head))


def _ends(t: LayerReader, model: Model) -> tuple[Embedding[Tensor, Tensor], Head[Tensor, Tensor]]:
    n, n_vocab, embedding, head = t.n_embd, t.model.sizes.n_vocab, model.embedding, model.head
    assert isinstance(embedding, Embedding)  # of a whole file
    tokens = t.maybe("nextn.embed_tokens.weight", n_vocab, n)
    joined = t.tensor("nextn.eh_proj.weight", n, 2 * n)
    halves = (Linear[Tensor, Tensor](columns(joined, begin, begin + n), None) for begin in (0, n))
    fusion = Fusion(t.norm("nextn.enorm"), t.norm("nextn.hnorm"), *halves)
    output = t.maybe("nextn.shared_head_head.weight", n_vocab, n)
    norm = t.norm("nextn.shared_head_norm") if "nextn.shared_head_norm.weight" in t else head.norm
    made = replace(head, norm=norm, output=head.output if output is None else Linear(output, None))
    return replace(embedding, tokens=embedding.tokens if tokens is None else tokens, fusion=fusion), made


def _n_bytes(gguf: GGUFFile, reader: ModelReader, layer: Layer[Tensor, Tensor], head: Head[Tensor, Tensor]) -> int:
    own = sum(tensor.nbytes for name, tensor in gguf.tensors.items() if name in reader.taken)
    return own if head.weight.name in reader.taken else own + head.weight.nbytes
