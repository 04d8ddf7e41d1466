"""The context behind `powerinfer main`: what stays when it shifts, and what an interruption undoes."""

import signal
from pathlib import Path

import pytest

from powerinfer_cli.commands.main.session import Session, Stop, open_session
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.runtime import EngineOptions, LoadEvents
from powerinfer_cli.sampling import SamplerOptions
from powerinfer_cli.text import StreamingDetokenizer
from tests.helpers.interrupts import ctrl_c_counts


def opened(words: str, *, n_ctx: int = 16, n_batch: int = 512, shift: bool = True) -> Session:
    engine = EngineOptions(n_ctx=n_ctx, n_batch=n_batch, n_threads=1)
    return open_session(Path(words), engine, SamplerOptions(temp=0), context_shift=shift, events=LoadEvents())


def write(session: Session, limit: int) -> tuple[Stop, str]:
    pieces: list[str] = []
    stop = session.generate(limit, StreamingDetokenizer(session.tokenizer), pieces.append)
    return stop, "".join(pieces)


def cannot_go_back(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an engine with windows, whose cells for them are gone."""
    truncate = session.engine.truncate
    monkeypatch.setattr(session.engine, "truncate", lambda n: truncate(0))


@pytest.mark.parametrize(("keep", "kept"), [(0, 1), (2, 3), (-1, 4), (99, 4)])
def test_kept_tokens_stay_and_bos_with_them(words: str, keep: int, kept: int) -> None:
    session = opened(words)
    ids = session.start_ids("fox fox fox")
    session.keep(ids, keep)
    session.feed(ids)
    assert write(session, 40)[0] is Stop.LIMIT
    tokens = list(session.engine.tokens)
    fox = ids[1]
    assert tokens[:kept] == ids[:kept]
    # The rest is the story, whose fox is followed by "."; only a kept one is followed by something else.
    dot = session.tokenizer.encode(".", add_special=False)[-1]
    assert all(tokens[i + 1] == dot for i in range(kept, len(tokens) - 1) if tokens[i] == fox)


def test_half_of_the_rest_goes(words: str) -> None:
    session = opened(words)
    ids = session.start_ids("")
    session.keep(ids, 0)
    session.feed(ids)
    write(session, 16)
    assert session.engine.n_past == 16
    before = list(session.engine.tokens)
    write(session, 1)
    assert list(session.engine.tokens)[:-1] == before[:1] + before[1 + 15 // 2 :]


def test_what_cannot_fit_is_refused_before_anything_is_dropped(words: str) -> None:
    session = opened(words)
    ids = session.start_ids("fox fox fox")
    session.keep(ids, -1)
    session.feed(ids)
    write(session, 8)
    before = list(session.engine.tokens)
    with pytest.raises(PowerInferError, match=r"do not fit the 16 of -c: shorten the text, or give a larger -c$"):
        session.feed([5] * 12)
    assert list(session.engine.tokens) == before
    assert session.feed([5] * 9)
    assert list(session.engine.tokens)[:4] == ids


@pytest.mark.parametrize("goes_back", [True, False])
def test_an_interrupted_prompt_is_not_fed(words: str, monkeypatch: pytest.MonkeyPatch, goes_back: bool) -> None:
    session = opened(words, n_batch=2)
    if not goes_back:
        cannot_go_back(session, monkeypatch)
    session.feed(session.start_ids("Once"))
    assert write(session, 2) == (Stop.LIMIT, " upon a")
    before, history = list(session.engine.tokens), list(session.sampler._history.last(64))
    check = session.interrupt.check

    def interrupted() -> None:
        signal.raise_signal(signal.SIGINT)
        check()

    monkeypatch.setattr(session.interrupt, "check", interrupted)
    assert not session.feed([5, 6, 7, 8])
    assert list(session.engine.tokens) == before
    assert list(session.sampler._history.last(64)) == history
    assert write(session, 2) == (Stop.LIMIT, " time there")


def test_what_is_lost_is_evaluated_anew(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    session = opened(words)
    ids = session.start_ids("Once")
    session.feed(ids)
    assert write(session, 3) == (Stop.LIMIT, " upon a time")
    cannot_go_back(session, monkeypatch)
    assert session.rewrite(list(session.engine.tokens))
    assert write(session, 1) == (Stop.LIMIT, " there")
    assert session.rewind(len(ids)) == session.engine.n_past == 0


def test_the_second_ctrl_c_ends_at_once(words: str) -> None:
    session = opened(words)
    session.feed(session.start_ids("Once"))

    def twice(piece: str) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with ctrl_c_counts():
        with pytest.raises(KeyboardInterrupt):
            session.generate(-1, StreamingDetokenizer(session.tokenizer), twice)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
