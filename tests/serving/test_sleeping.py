"""A server that lets go of its weights when nobody asks anything, and comes back for who does."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.server_process import RunningServer
from tests.helpers.word_model import word_model

GREEDY = {"prompt": "Once upon a time", "n_predict": 8, "temperature": 0}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return word_model().write(tmp_path_factory.mktemp("sleeping") / "words.gguf")


@pytest.fixture
def server(model: Path, tmp_path: Path) -> Iterator[RunningServer]:
    flags = ("-m", str(model), "-c", "128", "-np", "2", "-t", "1", "--metrics", "--sleep-idle-seconds", "1")
    with RunningServer(*flags, "--slot-save-path", str(tmp_path)) as running:
        yield running


def asleep(server: RunningServer) -> bool:
    return bool(server.client.get("/props").json()["is_sleeping"])


def until_asleep(server: RunningServer) -> None:
    deadline = time.monotonic() + 60
    while not asleep(server):
        assert time.monotonic() < deadline, server.log
        time.sleep(0.05)


def value(server: RunningServer, name: str) -> float:
    [line] = [line for line in server.client.get("/metrics").text.splitlines() if line.startswith(f"{name} ")]
    return float(line.split()[1])


def test_it_sleeps_wakes_and_goes_on_where_it_was(server: RunningServer, tmp_path: Path) -> None:
    first = server.client.post("/completion", json=GREEDY).json()
    counted = value(server, "llamacpp:tokens_predicted_total")
    assert value(server, "powerinfer:prompt_cache_bytes") == 0
    until_asleep(server)
    assert server.client.get("/health").json() == {"status": "ok"}
    assert len(server.client.get("/v1/models").json()["data"]) == 1
    assert server.client.get("/internal/neurons").json()["layers"] == []
    assert value(server, "llamacpp:tokens_predicted_total") == counted
    assert [path.name for path in tmp_path.iterdir()] == [f".asleep-{server.pid}-0"]
    assert asleep(server)  # none of these woke it
    again = server.client.post("/completion", json=GREEDY).json()
    assert again["content"] == first["content"]
    assert again["timings"]["cache_n"] == first["timings"]["prompt_n"] - 1  # the slot came back from its file
    assert not list(tmp_path.iterdir())
    assert not asleep(server)
    assert value(server, "llamacpp:tokens_predicted_total") == counted + 8
    until_asleep(server)
    server.signal(signal.SIGTERM)
    assert server.wait().code == 0
    assert not list(tmp_path.iterdir())


def test_any_request_for_the_model_wakes_it_and_all_wait_for_one_load(server: RunningServer) -> None:
    until_asleep(server)
    assert server.client.post("/tokenize", json={"content": "Once"}).status_code == 200
    assert not asleep(server)
    assert server.log.count("awake again") == 1


def test_a_model_that_has_gone_meanwhile_is_a_line_and_may_come_back(model: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.gguf"
    own.write_bytes(model.read_bytes())
    with RunningServer("-m", str(own), "-c", "64", "-t", "1", "--sleep-idle-seconds", "1") as server:
        until_asleep(server)
        own.rename(tmp_path / "away.gguf")
        answer = server.client.post("/completion", json=GREEDY)
        assert answer.status_code == 503
        assert "the model cannot be loaded again: " in answer.json()["error"]["message"]
        (tmp_path / "away.gguf").rename(own)
        assert server.client.post("/completion", json=GREEDY).status_code == 200


def test_zero_seconds_are_none() -> None:
    result = RunningServer("--sleep-idle-seconds", "0", wait=False).wait()
    assert result.code == 2
    assert result.error == "error: --sleep-idle-seconds must be at least 1, or -1 for never"


def test_what_left_its_slot_is_given_up_and_still_counted(model: Path) -> None:
    flags = ("-m", str(model), "-c", "128", "-np", "1", "-t", "1", "--metrics", "--sleep-idle-seconds", "1")
    with RunningServer(*flags) as server:
        for prompt in ("Once upon a time", "The fox"):
            server.client.post("/completion", json=GREEDY | {"prompt": prompt})
        assert value(server, "powerinfer:prompt_cache_texts") == 1
        until_asleep(server)
        for state in ("asleep", "awake"):
            assert value(server, "powerinfer:prompt_cache_bytes") == 0, state
            assert value(server, "powerinfer:prompt_cache_kept_total") == 1, state
            server.client.post("/tokenize", json={"content": "Once"})
