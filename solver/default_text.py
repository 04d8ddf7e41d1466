"""The text for a model that nobody gave a text for: what it knows of the bundled sample, and what it writes itself.

A predictor holds for texts like those that it was trained on. Large models know the whole sample; a small one that was
made for one thing does not, and what happens in it over such a text says nothing about its work. What a model writes
by itself, each token drawn by its probability, is its own kind of text.
"""

import math
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.files import make_folder, replacing
from powerinfer_cli.number_files import load_arrays
from powerinfer_cli.runtime import Engine
from powerinfer_cli.runtime.perplexity import losses
from powerinfer_cli.text import Tokenizer
from solver.profile import chunks_of, sample_text
from solver.stages import SolverModel

__all__ = ["default_chunks", "own_text", "well_known"]

NAME = "solver-text.npz"
MOST_BYTES = 64 << 20  # of that file
PROBE = 64  # tokens of a chunk by which it is judged
FOREIGN = 0.7  # of the loss of a model that knows nothing, from which on a chunk is foreign
MOST_OWN, LEAST_OWN = 16384, 512  # tokens that a model writes
OWN_BYTES = 2 << 40  # weights read for that: a minute or two
SEED = 20231216


def default_chunks(model: SolverModel, tokenizer: Tokenizer, folder: Path) -> list[list[int]]:
    """Chunks of such a text. They are kept in `folder`, so that every stage sees the same. Raises PowerInferError."""
    bos = tokenizer.bos_id if tokenizer.add_bos else None
    kept = _load(folder / NAME, model.fingerprint)
    if kept is not None:
        return kept
    ids = tokenizer.encode(sample_text(), add_special=False, parse_special=False)
    sample = chunks_of(ids, model.n_ctx, bos)
    known = well_known(model, sample)
    model.events.note(f"text: {len(known)} of the sample's {len(sample)} chunks are known to the model")
    start = tokenizer.bos_id if tokenizer.bos_id is not None else ids[0]
    count = own_size(sum(tensor.nbytes for tensor in model.gguf.tensors.values()))
    own = own_text(model, count, start, tokenizer.eog_ids)
    chunks = [*known, *chunks_of(own, model.n_ctx, bos)]
    _save(folder / NAME, model.fingerprint, chunks)
    return chunks


def own_size(model_bytes: int) -> int:
    """How many tokens a model of that size is to write."""
    return max(LEAST_OWN, min(MOST_OWN, OWN_BYTES // max(1, model_bytes)))


def well_known(model: SolverModel, chunks: Sequence[list[int]]) -> list[list[int]]:
    """Those chunks whose beginning the model predicts better than by guessing; all, where that is none."""
    engine, limit = model.open_engine(), FOREIGN * math.log(model.config.n_vocab)
    known = []
    for number, chunk in enumerate(chunks):
        engine.reset()
        part = chunk[: min(PROBE, len(chunk) - 1)]
        found = losses(engine.logits(part), chunk[1 : len(part) + 1])
        if found[len(found) // 2 :].mean() < limit:
            known.append(chunk)
        model.events.progress("reading the sample", number + 1, len(chunks))
    engine.reset()
    return known or list(chunks)


def own_text(model: SolverModel, count: int, start: int, ends: Collection[int]) -> list[int]:
    """`count` tokens as the model writes them, text by text, each from `start` until it ends or the context is full."""
    engine, random = model.open_engine(), np.random.default_rng(SEED)
    found: list[int] = []
    while len(found) < count:
        text = _write(engine, start, ends, random, min(model.n_ctx, count - len(found)))
        found += text
        model.events.progress("writing text", len(found), count)
    engine.reset()
    return found


def _write(engine: Engine, start: int, ends: Collection[int], random: np.random.Generator, most: int) -> list[int]:
    engine.reset()
    ids = [start]
    logits = engine.prefill(ids)
    while len(ids) < most and ids[-1] not in ends:
        # The largest of logits with Gumbel noise is a draw by their probabilities.
        ids.append(int((logits + random.gumbel(size=len(logits))).argmax()))
        if len(ids) < most:
            logits = engine.decode(ids[-1])
    return ids


def _save(path: Path, fingerprint: str, chunks: Sequence[Sequence[int]]) -> None:
    make_folder(path.parent)
    flat = np.array([token for chunk in chunks for token in chunk], np.int32)
    with replacing(path) as temporary, temporary.open("wb") as out:
        np.savez(out, model=np.array(fingerprint), ids=flat, lengths=np.array([len(chunk) for chunk in chunks]))


def _load(path: Path, fingerprint: str) -> list[list[int]] | None:
    try:
        file = load_arrays(path, ("model", "ids", "lengths"), MOST_BYTES, "a text of ids")
    except PowerInferError:
        return None
    model, ids, lengths = file.values()
    vectors = ids.ndim == lengths.ndim == 1 and ids.dtype.kind == lengths.dtype.kind == "i"
    if str(model) != fingerprint or not vectors or not lengths.size or (lengths < 0).any() or lengths.sum() != ids.size:
        return None
    return [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])]
