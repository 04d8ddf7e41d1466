"""Layer ranges: a model's consecutive layers as a model of their own, for machines that have a part each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from powerinfer_cli.errors import PowerInferError, UsageError
from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.blocks import (
    Border,
    Embedding,
    Head,
    Layer,
    Sequential,
    SharedAttention,
    Source,
    leaves,
    predictor_of,
    sources,
)
from powerinfer_cli.model.model import Model

__all__ = [
    "LayerRange",
    "check_division",
    "divide",
    "group_counts",
    "part_of",
    "read_ranges",
    "shown_ranges",
    "whole_from",
]

DIGITS = 5  # of a layer's number


@dataclass(frozen=True)
class LayerRange:
    """Layers begin to end - 1 of a model."""

    begin: int
    end: int

    def __str__(self) -> str:
        return f"layers {self.begin} to {self.end - 1}"


def read_ranges(words: str) -> tuple[LayerRange, ...]:
    """As `--layers 0-11,12-23` says them: the first and the last layer of each, in order, with none left out.

    Raises:
        UsageError: they are not that.
    """
    found: list[LayerRange] = []
    for part in words.split(","):
        first, _, last = part.strip().partition("-")
        if not all(one.isascii() and one.isdecimal() and len(one) <= DIGITS for one in (first, last)):
            raise UsageError(f"--layers: {part[:40]!r} is no range of layers: it is to be like 0-11,12-23")
        found.append(LayerRange(int(first), int(last) + 1))
    expected = [0, *(one.end for one in found)]
    for begin, one in zip(expected, found, strict=False):
        if one.begin != begin or one.end <= one.begin:
            raise UsageError(f"--layers: {one.begin}-{one.end - 1} does not go on at layer {begin}: all in order")
    return tuple(found)


def shown_ranges(ranges: Sequence[LayerRange]) -> str:
    """As `read_ranges` takes them."""
    return ",".join(f"{one.begin}-{one.end - 1}" for one in ranges)


def check_division(model: Model, ranges: Sequence[LayerRange]) -> None:
    """Raises PowerInferError: they are not all layers, or the model cannot be divided so."""
    last = ranges[-1]
    if last.end != len(model.layers):
        raise PowerInferError(
            f"--layers ends with layer {last.end - 1}, but the model's last is layer {len(model.layers) - 1}"
        )
    if last.begin > (whole := whole_from(model)):
        raise PowerInferError(
            f"--layers: the last range begins with layer {last.begin}, but layers from {whole} on belong together"
        )


def whole_from(model: Model) -> int:
    """The first of the layers that cannot be divided, as others read their keys; their number, where there are none."""
    return min(sources(model.layers), default=len(model.layers))


def divide(model: Model, n: int) -> tuple[LayerRange, ...]:
    """n ranges, in order, whose tensors have about as many bytes each. The head counts with the last; of the embedding
    a token needs a row, so it counts nowhere.

    Layers that read what others keep are in the last range, with these.

    Raises:
        PowerInferError: fewer layers than ranges.
    """
    sizes = [_size(leaves(layer)) for layer in model.layers]
    if n > len(sizes):
        raise PowerInferError(f"{n} ranks are more than the model has layers, which are {len(sizes)}: start fewer")
    whole = whole_from(model)
    if n > whole + 1:
        raise PowerInferError(
            f"{n} ranks are more than the model can be divided among, as its last layers read the keys of "
            f"layer {whole}: start {whole + 1} at most"
        )
    ends = list(accumulate(sizes))
    total = ends[-1] + _size(leaves(model.head))
    cuts = [0]
    for rank in range(1, n):
        most = min(len(sizes) - (n - rank), whole - (n - 1 - rank))  # each behind gets one at least
        past = sum(end < total * rank / n for end in ends)
        cuts.append(max(cuts[-1] + 1, min(past + 1, most)))
    return tuple(LayerRange(begin, end) for begin, end in zip(cuts, [*cuts[1:], len(sizes)], strict=True))


def group_counts(most: int) -> tuple[int, ...]:
    """Into how many groups the texts that are on their way through ranges may go: 1, 2, 4 and so on, and the most."""
    return *(1 << i for i in range((most - 1).bit_length())), most


def part_of(model: Model, layers: LayerRange) -> Model:
    """These layers alone. The first have the embedding, the last the head; at borders x comes in, or goes out as the
    hidden state.
    """
    found = tuple(_numbered_from(layers.begin, one) for one in model.layers[layers.begin : layers.end])
    first, last = layers.begin == 0, layers.end == len(model.layers)
    embedding = model.embedding if first else _border(model.embedding)
    head = model.head if last else Head[Tensor, Tensor](None, None)
    config = replace(
        model.config,
        sparse=any(predictor_of(layer.ffn.selection) is not None for layer in found),
        n_layer=len(found),
        n_ff=model.config.n_ff[layers.begin : layers.end],
        writes=last and model.config.writes,
    )
    nbytes = sum(_size(leaves(block)) for block in (embedding, *found, head))
    if not first:
        nbytes -= sum(table.nbytes for table in embedding.tables)  # they stay in the file
    return Model(config, embedding, found, head, nbytes)


def _border(embedding: Source[Tensor, Tensor]) -> Border[Tensor, Tensor]:
    return Border(embedding if isinstance(embedding, Embedding) and embedding.inputs is not None else None)


def _numbered_from(begin: int, layer: Layer[Tensor, Tensor]) -> Layer[Tensor, Tensor]:
    """A layer among those from `begin` on: whose keys it reads."""
    a = layer.attention
    if not isinstance(layer, Sequential) or not isinstance(a, SharedAttention):
        return layer
    return replace(layer, attention=replace(a, source=a.source - begin))


def _size(tensors: Sequence[list[Tensor]]) -> int:
    return sum(one.nbytes for kind in tensors for one in kind)
