"""The log's lines."""

import json

import pytest

from powerinfer_cli.serving.http.logs import Log
from powerinfer_cli.serving.http.requests import Record, note_events
from powerinfer_cli.serving.slots.counters import ServedRequest
from powerinfer_cli.serving.tasks import Finished, Stop, TextPiece, Timings

TIMINGS = Timings(cache_n=7, prompt_n=5, prompt_ms=10.0, predicted_n=11, predicted_ms=100.0)
FINISHED = Finished(Stop.END, "", False, TIMINGS, id_slot=2, n_prompt=12, tokens_cached=23, seed=1)
SERVED = ServedRequest("chat", 4, 2, 12, 7, 11, 10.0, 100.0, "eos", 112.25)


def record(n_completions: int) -> Record:
    made = Record("POST", "/completion", status=200, complete=True)
    note_events(made, [TextPiece("secret", (1,), (), TIMINGS)])
    for _ in range(n_completions):
        note_events(made, [TextPiece("secret", (1,), (), TIMINGS), FINISHED])
    return made


def test_a_request(capfd: pytest.CaptureFixture[str]) -> None:
    for n in (0, 1, 2):
        Log().request({**record(n).values(), "ms": 1.0})
    assert capfd.readouterr().err.splitlines() == [
        "POST /completion 200 1.0 ms",
        "POST /completion 200 1.0 ms, slot 2: 5 prompt tokens and 7 cached, 11 written at 100.0 tokens/s",
        "POST /completion 200 1.0 ms, slot 2,2: 10 prompt tokens and 14 cached, 22 written at 100.0 tokens/s",
    ]


def test_a_models_name_steers_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    Log().note("loaded: a\x1b[31m\nb\udcff")
    assert capfd.readouterr().err == "loaded: a?[31m?b?\n"


def test_a_client_that_went(capfd: pytest.CaptureFixture[str]) -> None:
    Log().request({**Record("POST", "/x").values(), "ms": 1.0})
    Log(as_json=True).request({**Record("POST", "/x").values(), "ms": 1.0})
    text, line = capfd.readouterr().err.splitlines()
    assert text == "POST /x 499 1.0 ms, client gone"
    assert json.loads(line) == {
        "event": "request",
        "method": "POST",
        "path": "/x",
        "status": 499,
        "ms": 1.0,
        "gone": True,
    }


def test_tasks_are_told_to_those_who_ask(capfd: pytest.CaptureFixture[str]) -> None:
    Log().served(SERVED)
    Log(tasks=True).served(SERVED)
    Log(tasks=True, quiet=True).served(SERVED)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("task label=chat id_task=4 id_slot=2 ")
    assert line.endswith("stop=eos ms=112.2")


def test_what_happens_often_is_told_seldom(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("powerinfer_cli.serving.http.logs.time.monotonic", lambda: now)
    log = Log()
    for _ in range(50_000):
        log.seldom("too many open files")
    log.seldom("another thing")
    now += 11
    log.seldom("too many open files")
    assert capfd.readouterr().err.splitlines() == [
        "too many open files",
        "another thing",
        "too many open files (and 49999 times before)",
    ]
