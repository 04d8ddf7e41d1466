"""A model's layers on several ranks, all of them in this process: rank 0's engine, the others in threads."""

import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.cluster import callers, controls, joining, watching
from powerinfer_cli.cluster.borders import LinkType
from powerinfer_cli.cluster.executor import PipelineExecutor, RankWishes, serve_layers
from powerinfer_cli.cluster.joining import Meeting
from powerinfer_cli.cluster.seats import Seat
from powerinfer_cli.drafting import DraftOptions
from powerinfer_cli.opening.drafts import make_engine
from powerinfer_cli.opening.opened import read_files
from powerinfer_cli.opening.wishes import PlacementWishes
from powerinfer_cli.runtime import Engine, EngineOptions, LoadEvents, Piece, Wanted
from tests.helpers.families import PROMPT

__all__ = ["OPTIONS", "engine_of_one", "engine_of_ranks", "free_port", "told"]

SECONDS = 60.0
OPTIONS = EngineOptions(n_ctx=384, n_threads=1, n_ubatch=32, n_sequences=3, drafting=True)
LIMITS = (
    *((callers, "PROOF_S"), (joining, "PROOF_S"), (joining, "ANSWER_S")),
    *((controls, "SILENCE_S"), (watching, "SILENCE_S")),
)
Told = list[np.ndarray]


def free_port() -> int:
    """Where nobody listens. On Linux it stays bound, so that no other process is given it: ranks bind beside it."""
    with socket.socket() as sock:
        kept = sys.platform.startswith("linux")
        if kept:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        port = int(sock.getsockname()[1])
        if kept:
            sock.detach()  # open until this process ends
        return port


def engine_of_one(path: Path, options: EngineOptions) -> Engine:
    """One machine's, by the statistics beside the file, as ranks have them: neurons are summed in their order."""
    files = read_files(path, None, LoadEvents(), text=False)
    return Engine.load(files.gguf, options, files.beside.statistics)


@contextmanager
def engine_of_ranks(
    path: Path,
    n_ranks: int,
    options: EngineOptions,
    link: LinkType = LinkType.F32,
    drafts: DraftOptions | None = None,
    on_failure: Callable[[str], None] = print,
    key: bytes = b"",
    placements: Sequence[PlacementWishes] = (),
) -> Iterator[Engine]:
    """Rank 0's. Ends all, and fails where another rank has failed. placements: by rank, else the CPU alone.

    All of them share a lock, with what they compile: none is silent for so long that it has gone.
    """
    port, notes = free_port(), list[str]()
    failures: list[BaseException] = []
    drafts = drafts or DraftOptions()
    shared = replace(options, drafting=drafts.wanted or options.drafting)

    def wishes(rank: int) -> RankWishes:
        seat = Seat(rank, n_ranks, "127.0.0.1", port)
        wishes = RankWishes(Meeting(seat, key, SECONDS, notes.append), link, on_failure)
        return replace(wishes, placement=placements[rank]) if placements else wishes

    def serve(rank: int) -> None:
        try:
            serve_layers(read_files(path, None, LoadEvents(), text=False), shared, wishes(rank), LoadEvents())
        except BaseException as error:  # it is for the main thread
            failures.append(error)

    others = [threading.Thread(target=serve, args=(rank,), daemon=True) for rank in range(1, n_ranks)]
    with pytest.MonkeyPatch.context() as patch:
        for module, name in LIMITS:
            patch.setattr(module, name, SECONDS)
        for thread in others:
            thread.start()
        files = read_files(path, None, LoadEvents(), text=False)
        executor = PipelineExecutor(files, shared, wishes(0))
        statistics = files.beside.statistics
        engine = make_engine(files.gguf, files.model, options, statistics, LoadEvents(), None, drafts, executor)
        try:
            yield engine
        finally:
            engine.close()
            for thread in others:
                thread.join(1.5 * SECONDS)
    assert not failures, failures
    assert not any(thread.is_alive() for thread in others)


def told(engine: Engine) -> Told:
    """A text with drafts, one that is cut and shifted, several at once, one that is saved and restored."""
    found: Told = [engine.prefill(PROMPT[:40]), *map(engine.decode, PROMPT[40:44])]
    found += _rows(engine, Piece(0, PROMPT[44:48], Wanted.ALL, stepwise=True))
    known = engine.truncate(45)
    engine.prefill(PROMPT[known:50])
    several = Piece(1, PROMPT[:20], Wanted.ALL), Piece(0, PROMPT[50:51]), Piece(2, PROMPT[3:9], Wanted.HIDDEN)
    found += _rows(engine, *several)
    found += _rows(engine, *(Piece(i, PROMPT[20 + i : 21 + i]) for i in range(3)))
    ids, saved = list(engine.tokens_of(1)), engine.save(1)
    found += [saved[name] for name in sorted(saved)]
    engine.truncate(0, 1)
    engine.restore(2, ids, saved)
    found += _rows(engine, Piece(2, PROMPT[21:22]))
    engine.shift(2, 10)
    return [*found, engine.decode(5), np.array([known])]


def _rows(engine: Engine, *pieces: Piece) -> Told:
    rows = engine.step(pieces)
    assert all(one is not None for one in rows)
    return list(rows)
