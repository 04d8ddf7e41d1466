"""Where an encoder's layers begin and end."""

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.architecture import Ends
from powerinfer_cli.model.blocks import Embedding, Head
from powerinfer_cli.model.cuts import first_row
from powerinfer_cli.model.tensors import ModelReader

__all__ = ["encoder_ends"]


def encoder_ends(
    model: ModelReader,
    *,
    positions: bool = False,
    types: bool = False,
    embedding_norm: bool = True,
    norm_name: str | None = None,
    scale: float = 1.0,
) -> Ends:
    """Token embedding, learned positions, and a last norm where it has a name; no output, for it writes no text.

    types: every token is of the first type, as llama.cpp has it.
    """
    s = model.sizes
    tokens = model.tensor("token_embd.weight", s.n_vocab, s.n_embd)
    table = model.tensor("position_embd.weight", None, s.n_embd) if positions else None
    kinds = model.maybe("token_types.weight", None, s.n_embd) if types else None
    shift = None if kinds is None else first_row(kinds)
    norm = model.norm("token_embd_norm") if embedding_norm else None
    embedding = Embedding[Tensor, Tensor](tokens, table, 0, scale, norm, None, shift)
    return embedding, Head(None if norm_name is None else model.norm(norm_name), None)
