"""Texts as a model reads them: documents in chunks of tokens, some of them kept from training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, overload

from powerinfer_cli.errors import PowerInferError

__all__ = ["CHUNK", "OFTEN", "Chunks", "Text", "chunks_of", "first_scored", "held_out", "some_of"]

Chunks: TypeAlias = Sequence[Sequence[int]]

CHUNK = 512  # tokens, if the context has room for them
SHORTEST = 64  # tokens of a document's last chunk
SCORED = 4000  # tokens of held-out documents by which a result is measured, where there are enough
SELDOM, OFTEN = 8, 4  # of so many documents one is held out
STRETCH = 8  # chunks of a text in one piece that count as a document


@dataclass(frozen=True)
class Text(Sequence[Sequence[int]]):
    """Chunks, and the number of the document that each is of."""

    chunks: tuple[tuple[int, ...], ...]
    documents: tuple[int, ...]

    @classmethod
    def of(cls, documents: Sequence[Sequence[int]], n_ctx: int, bos: int | None) -> "Text":
        """Documents' tokens, each document in chunks of its own. Less than SHORTEST of one is left out."""
        length, chunks, numbers = min(CHUNK, n_ctx), [], []
        for number, ids in enumerate(documents):
            for start in range(0, len(ids), length):
                chunk = tuple(ids[start : start + length])
                if len(chunk) >= min(SHORTEST, length):
                    chunks.append(chunk if bos is None else (bos, *chunk[1:]))
                    numbers.append(number)
        return cls(tuple(chunks), tuple(numbers))

    @classmethod
    def of_one(cls, chunks: Chunks) -> "Text":
        """Of one text, whose stretches of a few chunks count as documents."""
        stretch = max(1, min(STRETCH, len(chunks) // (2 * SELDOM)))
        return cls(tuple(map(tuple, chunks)), tuple(i // stretch for i in range(len(chunks))))

    def __len__(self) -> int:
        return len(self.chunks)

    @overload
    def __getitem__(self, index: int) -> tuple[int, ...]: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[tuple[int, ...], ...]: ...

    def __getitem__(self, index: int | slice) -> tuple[int, ...] | tuple[tuple[int, ...], ...]:
        return self.chunks[index]

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        return iter(self.chunks)

    def about(self, tokens: int) -> "Text":
        """Documents from all over, about so many tokens; all, where these are no more."""
        names, there = list(dict.fromkeys(self.documents)), sum(map(len, self))
        count = max(2, len(names) * tokens // max(1, there))
        if count >= len(names):
            return self
        chosen = {names[i * len(names) // count] for i in range(count)}
        kept = [(chunk, name) for chunk, name in zip(self.chunks, self.documents, strict=True) if name in chosen]
        return Text(tuple(chunk for chunk, _ in kept), tuple(name for _, name in kept))

    def divided(self) -> tuple[list[Sequence[int]], list[Sequence[int]]]:
        """Chunks to train on, and those of other documents: one document of eight, or of fewer until SCORED tokens
        can be scored.
        """
        names = list(dict.fromkeys(self.documents))
        held: list[Sequence[int]] = []
        for every in range(min(SELDOM, len(names)), 1, -1):
            chosen = set(names[every - 1 :: every])
            held = [chunk for chunk, name in zip(self.chunks, self.documents, strict=True) if name in chosen]
            if every <= OFTEN or sum(len(chunk) - 1 - first_scored(chunk) for chunk in held) >= SCORED:
                break
        return [chunk for chunk, name in zip(self.chunks, self.documents, strict=True) if name not in chosen], held


def first_scored(chunk: Sequence[int]) -> int:
    """From where on in a chunk what follows is scored: before, the model has seen too little."""
    return len(chunk) // 8


def chunks_of(ids: Sequence[int], n_ctx: int, bos: int | None) -> Text:
    """Whole chunks of a text; the first token of each gives its place to `bos`, where there is one.

    Raises:
        PowerInferError: the text is shorter than one chunk.
    """
    length = min(CHUNK, n_ctx)
    if len(ids) < length:
        raise PowerInferError(f"the text has {len(ids)} tokens, but one chunk has {length}: give a longer text")
    starts = range(0, len(ids) - length + 1, length)
    cut = [list(ids[start : start + length]) for start in starts]
    return Text.of_one(cut if bos is None else [[bos, *chunk[1:]] for chunk in cut])


def held_out(chunks: Chunks) -> tuple[list[Sequence[int]], list[Sequence[int]]]:
    """Chunks to train on, and those kept from it to measure the result: of other documents, from all parts of the text.

    Of a text of one chunk both are that chunk.
    """
    text = chunks if isinstance(chunks, Text) else Text.of_one(chunks)
    if len(set(text.documents)) == 1:
        text = Text(text.chunks, tuple(range(len(text))))
    if len(text) == 1:
        return list(text), list(text)
    return text.divided()


def some_of(chunks: Chunks, tokens: int) -> Chunks:
    """Chunks from all parts of a text that have about so many tokens together; all, where these are no more."""
    every = max(1, round(sum(map(len, chunks)) / tokens))
    return chunks[every // 2 :: every] if every > 1 else chunks
