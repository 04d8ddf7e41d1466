"""Texts that a model writes by itself, each token drawn by its probability: many side by side."""

import time
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from powerinfer_cli.kernels.few import FEW
from powerinfer_cli.runtime import Engine
from powerinfer_cli.runtime.context.cache_size import kv_bytes
from powerinfer_cli.runtime.context.pages import Extent
from powerinfer_cli.runtime.step import Piece
from solver.profile import CHUNK
from solver.stages import SolverModel

__all__ = ["own_texts"]

SEED = 20231216
CACHES = 256 << 20  # bytes, of all texts together
SECONDS = 60.0  # from which on no more is written
WRITING = "writing text"


def own_texts(
    model: SolverModel, count: int, start: int, ends: Collection[int], seconds: float = SECONDS
) -> list[list[int]]:
    """About `count` tokens, each text from `start` until it ends or the context is full, so many of them together as
    make a chunk; fewer after `seconds`.
    """
    n = _side_by_side(model)
    model.forget_engine()  # two would take the memory of two
    options = replace(model.engine_options(all_active=True, n_sequences=n), n_ctx=n * model.n_ctx)
    engine = Engine(model.model, options, None, model.events, model.placement)
    try:
        return _joined(_write(engine, model, count, start, ends, time.monotonic() + seconds), CHUNK)
    finally:
        engine.close()


def _joined(texts: Sequence[list[int]], least: int) -> list[list[int]]:
    """Neighbours become one until they have `least` tokens."""
    found: list[list[int]] = [[]]
    for text in texts:
        if len(found[-1]) >= least:
            found.append([])
        found[-1] += text
    return found


def _side_by_side(model: SolverModel) -> int:
    """How many texts the caches have room for. A plan is made for one."""
    if model.placement is not None:
        return 1
    one = kv_bytes(model.model.layers, Extent(model.n_ctx), model.options.type_k, model.options.type_v)
    return max(1, min(FEW, CACHES // max(1, one)))


def _write(
    engine: Engine, model: SolverModel, count: int, start: int, ends: Collection[int], until: float
) -> list[list[int]]:
    random = np.random.default_rng(SEED)
    most = engine.n_ctx_sequence
    texts = [[start] for _ in range(engine.n_sequences)]
    finished: list[list[int]] = []
    written = len(texts)
    while written < count and time.monotonic() < until:
        found = engine.step([Piece(i, [text[-1]]) for i, text in enumerate(texts)])
        logits = np.stack([one for one in found if one is not None])
        # The largest of logits with Gumbel noise is a draw by their probabilities.
        drawn = (logits + random.gumbel(size=logits.shape)).argmax(axis=1).tolist()
        written += len(texts)
        for i, token in enumerate(drawn):
            texts[i].append(token)
            if token in ends or len(texts[i]) >= most:
                finished.append(texts[i])
                texts[i] = [start]
                engine.truncate(0, i)
        model.events.progress(WRITING, min(written, count), count)
    return [*finished, *texts]
