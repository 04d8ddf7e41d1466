"""The text that a model is profiled with: a user's, or what it knows of the bundled sample.

A predictor holds for texts like those that it was made from. Large models know the whole sample; a small one that was
made for one thing does not, and what happens in it over such a text says nothing about its work. What such a model
writes by itself is its own kind of text.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.files import make_folder, replacing
from powerinfer_cli.number_files import load_arrays
from powerinfer_cli.runtime.perplexity import losses
from powerinfer_cli.text import Tokenizer
from solver.own_text import own_texts
from solver.profile import Text, chunks_of, record, sample_documents, some_of
from solver.stages import SolverModel

__all__ = [
    "PROBED",
    "READING_SAMPLE",
    "default_chunks",
    "first_losses",
    "given_chunks",
    "read_size",
    "short_default",
    "verdict_text",
]

READING_SAMPLE = "reading the sample"
NAME = "solver-text.npz"
MOST_BYTES = 64 << 20  # of that file
PROBE = 64  # tokens of a text by which it is judged
FOREIGN = 0.7  # of the loss of a model that knows nothing, from which on a text is foreign
KNOWN = 0.5  # of the sample, by tokens: a model that knows less writes texts of its own
READ_MOST, READ_LEAST = 49152, 20480  # tokens of the sample
READ_WORK = 2e13  # multiplications of all of them
MOST_OWN, LEAST_OWN = 20480, 512  # tokens that a model writes
OWN_BYTES = 2 << 40  # weights read for that
PROBED = 4096  # tokens, by which documents are judged, and a model before it is profiled
TRIED = 8  # chunks of a user's text


def given_chunks(model: SolverModel, tokenizer: Tokenizer, text: str) -> Text:
    """A user's text; a note says where the model hardly knows such.

    Raises PowerInferError: it is too short.
    """
    ids = tokenizer.encode(text, add_special=False, parse_special=False)
    chunks = chunks_of(ids, model.n_ctx, tokenizer.bos_id if tokenizer.add_bos else None)
    found = first_losses(model, some_of(chunks, TRIED * len(chunks[0])), "reading the text")
    loss, worst = float(np.mean(found)), math.log(model.config.n_vocab)
    if loss > FOREIGN * worst:
        model.events.note(
            f"the model hardly knows such text: its perplexity is {math.exp(min(loss, 700)):,.0f}, where guessing has "
            f"{model.config.n_vocab:,}; is it in another language? What is found holds for this kind of text"
        )
    return chunks


def default_chunks(model: SolverModel, tokenizer: Tokenizer, folder: Path, most: int | None = None) -> Text:
    """Documents, of `most` tokens or what is usual, for a model that nobody gave a text for. They are kept in `folder`,
    so that every stage sees the same.

    Raises PowerInferError.
    """
    kept = _load(folder / NAME, model.fingerprint)
    if kept is not None:
        return kept
    usual = read_size(model.weights)
    text = _chosen(model, tokenizer, usual if most is None else min(usual, most))
    _save(folder / NAME, model.fingerprint, text)
    return text


def short_default(model: SolverModel, tokenizer: Tokenizer) -> Text:
    """Text of the same kind, of PROBED tokens or a little more; it is kept nowhere. Raises PowerInferError."""
    return _chosen(model, tokenizer, PROBED)


def verdict_text(model: SolverModel, tokenizer: Tokenizer) -> Text:
    """The whole sample, of a model that knows it; of another as `short_default`. Raises PowerInferError."""
    return _chosen(model, tokenizer, PROBED, whole=True)


def _chosen(model: SolverModel, tokenizer: Tokenizer, most: int, *, whole: bool = False) -> Text:
    """What the model knows of the sample; where that is little, also what it writes itself; all, if that is nothing.

    whole: of a model that knows the sample all of it is taken, whatever `most` is.
    """
    sample = _sample(tokenizer)
    if not sample:
        raise PowerInferError(f"{model.gguf.path}: its tokenizer makes nothing of the sample: give a text (-f)")
    documents, share = _known(model, sample, most)
    if share < KNOWN:
        start = tokenizer.bos_id if tokenizer.bos_id is not None else sample[0][0]
        count = min(most, own_size(sum(tensor.nbytes for tensor in model.gguf.tensors.values())))
        own = own_texts(model, count, start, tokenizer.eog_ids)
        model.events.note(f"text: {sum(map(len, own)):,} tokens that the model has written itself are added")
        documents += own
    elif whole:
        documents = sample
    return Text.of(documents or sample, model.n_ctx, tokenizer.bos_id if tokenizer.add_bos else None)


def _known(model: SolverModel, sample: Sequence[list[int]], most: int) -> tuple[list[list[int]], float]:
    """Documents of `most` tokens or a little more that the model knows, and what share they are of those looked at.

    Any part of the sample is as varied as all: only of a model that does not know one, all is looked at.
    """
    sizes = np.cumsum([len(ids) for ids in sample])
    enough = min(len(sample), int((sizes < most).sum()) + 1)
    limit = FOREIGN * math.log(model.config.n_vocab)
    found: list[float] = []
    for part in (sample[:enough], sample[enough:]):
        found += first_losses(model, part, READING_SAMPLE)
        known = [ids for ids, loss in zip(sample, found, strict=False) if loss < limit]
        share = sum(map(len, known)) / int(sizes[len(found) - 1])
        if share >= KNOWN:
            break
    model.events.note(
        f"text: the model knows {len(known)} of {len(found)} documents of the sample "
        f"(perplexity of their beginnings: {math.exp(min(float(np.median(found)), 700)):,.0f})"
    )
    last = int((np.cumsum([len(ids) for ids in known]) < most).sum()) + 1
    return known[:last], share


def own_size(model_bytes: int) -> int:
    """How many tokens a model of that size is to write."""
    return max(LEAST_OWN, min(MOST_OWN, OWN_BYTES // max(1, model_bytes)))


def read_size(weights: int) -> int:
    """How many tokens of the sample a model of so many weights is to read."""
    return max(READ_LEAST, min(READ_MOST, int(READ_WORK / max(1, weights))))


def first_losses(model: SolverModel, texts: Sequence[Sequence[int]], what: str) -> list[float]:
    """For each text the mean loss of the second half of its first PROBE tokens.

    Raises PowerInferError: numbers that are none.
    """
    engine, found = model.open_engine(), []
    for number, ids in enumerate(texts):
        part = ids[:PROBE]
        first = max(1, len(part) // 2)
        engine.reset()
        engine.prefill(part[:first])
        loss = float(losses(engine.logits(part[first:-1]), part[first + 1 :]).mean())
        if not math.isfinite(loss):
            if not model.model.has_experts:
                record(engine, [part], 0, lambda *_: None, lambda _: None)  # names the layer, if it is one
            model.check_weights()
            raise PowerInferError(f"{model.gguf.path}: logits that are no numbers: the file is damaged")
        found.append(loss)
        model.events.progress(what, number + 1, len(texts))
    engine.reset()
    return found


def _sample(tokenizer: Tokenizer) -> list[list[int]]:
    """The documents of the sample that are long enough to be judged."""
    texts = (document.text for document in sample_documents())
    documents = (tokenizer.encode(text, add_special=False, parse_special=False) for text in texts)
    return [ids for ids in documents if len(ids) >= PROBE]


def _save(path: Path, fingerprint: str, text: Text) -> None:
    make_folder(path.parent)
    flat = np.array([token for chunk in text for token in chunk], np.int32)
    lengths, documents = np.array([len(chunk) for chunk in text]), np.array(text.documents)
    with replacing(path) as temporary, temporary.open("wb") as out:
        np.savez(out, model=np.array(fingerprint), ids=flat, lengths=lengths, documents=documents)


def _load(path: Path, fingerprint: str) -> Text | None:
    try:
        file = load_arrays(path, ("model", "ids", "lengths", "documents"), MOST_BYTES, "a text of ids")
    except PowerInferError:
        return None
    model, ids, lengths, documents = file.values()
    vectors = all(one.ndim == 1 and one.dtype.kind == "i" for one in (ids, lengths, documents))
    if str(model) != fingerprint or not vectors or not lengths.size or documents.shape != lengths.shape:
        return None
    if (lengths < 1).any() or lengths.sum() != ids.size:
        return None
    parts = np.split(ids, np.cumsum(lengths)[:-1])
    return Text(tuple(tuple(part.tolist()) for part in parts), tuple(documents.tolist()))
