"""A real router before real servers of small models."""

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from powerinfer_cli.serving.load_progress import LoadProgress
from tests.helpers.server_process import RunningServer
from tests.helpers.word_model import ANSWER, STORY, word_model

FLAGS = ("-t", "1", "-c", "256", "--temp", "0", "--metrics")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, one of them in a folder of its own, and a file that is none."""
    folder = tmp_path_factory.mktemp("models")
    word_model().write(folder / "words.gguf")
    (folder / "fox").mkdir()
    word_model().write(folder / "fox" / "model.gguf")
    (folder / "broken.gguf").write_bytes(b"GGUF\3\0\0\0 and no more")
    (folder / "fox" / "circle").symlink_to(folder)
    return folder


@pytest.fixture(scope="module")
def router(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Loads one model at a time."""
    cache = {"HF_HUB_CACHE": str(tmp_path_factory.mktemp("hub"))}
    with RunningServer("--models-dir", str(folder), "--models-max", "1", *FLAGS, env=cache) as running:
        yield running


def status(router: RunningServer, name: str) -> dict[str, object]:
    data = router.client.get("/v1/models").json()["data"]
    [found] = [one["status"] for one in data if one["id"] == name]
    return dict(found)


def complete(router: RunningServer, model: str, **fields: object) -> httpx.Response:
    return router.client.post("/v1/completions", json={"model": model, "prompt": "Once", "max_tokens": 6, **fields})


def process_of(router: RunningServer, name: str) -> int:
    """The number of a model's process, which is a child of the router's."""
    children = Path(f"/proc/{router.pid}/task/{router.pid}/children").read_text().split()
    [found] = [pid for pid in children if f"--alias\0{name}\0" in Path(f"/proc/{pid}/cmdline").read_text()]
    return int(found)


def test_all_models_are_listed_before_any_is_loaded(folder: Path) -> None:
    flags = "--models-dir", str(folder), "--hf-token", "secret", *FLAGS
    with RunningServer(*flags, env={"HF_HUB_CACHE": "/nowhere"}) as fresh:
        body = fresh.client.get("/v1/models").json()
        assert body["object"] == "list"
        assert [one["id"] for one in body["data"]] == ["broken", "fox", "words"]
        assert {one["status"]["value"] for one in body["data"]} == {"unloaded"}
        assert all(one["memory"] == 0 for one in body["data"])
        args = body["data"][2]["status"]["args"]
        assert args[args.index("--hf-token") + 1] == "***"
        assert args[-4:] == ["-m", str(folder / "words.gguf"), "--alias", "words"]
        assert body["data"][2]["status"]["preset"].startswith("[words]\nhf-token = ***\nt = 1\nc = 256\n")
        assert {one["source"] for one in body["data"]} == {"models_dir"}
        assert fresh.client.get("/health").json() == {"status": "ok"}
        props = fresh.client.get("/props").json()
        assert (props["role"], props["max_instances"], props["models_autoload"]) == ("router", 4, True)


def test_a_request_loads_its_model_and_the_other_one_makes_room(router: RunningServer) -> None:
    answer = complete(router, "words")
    assert answer.status_code == 200
    assert ("Once" + answer.json()["choices"][0]["text"]).startswith(STORY[:12])
    assert answer.json()["model"] == "words"
    assert status(router, "words")["value"] == "loaded"
    with router.openai() as client:
        chat = client.chat.completions.create(model="fox", messages=[{"role": "user", "content": "Hi"}], max_tokens=8)
    assert (chat.choices[0].message.content or "").strip() == ANSWER
    assert chat.model == "fox"
    assert status(router, "words")["value"] == "unloaded"
    assert [one["memory"] > 0 for one in router.client.get("/v1/models").json()["data"]] == [False, True, False]


def test_streams_come_through_as_they_are_written(router: RunningServer) -> None:
    with router.openai() as client:
        stream = client.completions.create(model="words", prompt="Once", max_tokens=6, stream=True)
        pieces = [chunk.choices[0].text for chunk in stream if chunk.choices]
    assert len(pieces) > 3
    assert ("Once" + "".join(pieces)).startswith(STORY[:12])


def test_gets_name_their_model_in_the_address(router: RunningServer) -> None:
    complete(router, "words")
    assert router.client.get("/props", params={"model": "words"}).json()["model_alias"] == "words"
    assert router.client.get("/slots", params={"model": "words"}).json()[0]["n_ctx"] == 128
    assert 'llamacpp:tokens_predicted_total{model="words"}' in router.client.get("/metrics").text
    assert "llamacpp:tokens_predicted_total " in router.client.get("/metrics", params={"model": "words"}).text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "model name is missing from the request"),
        ({"model": 7}, "model name is missing from the request"),
        ({"model": "gone"}, "model 'gone' not found: GET /v1/models lists them"),
    ],
)
def test_a_model_that_there_is_not(router: RunningServer, fields: dict[str, object], message: str) -> None:
    answer = router.client.post("/v1/completions", json={"prompt": "x", **fields})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == message


@pytest.mark.parametrize("path", ["/%00", "/%0A", "/%7F", "/é?", "/x?a=%00&b=\\"])
def test_odd_addresses_are_no_route_of_a_model(router: RunningServer, path: str) -> None:
    complete(router, "words")
    answer = router.client.get(path, params={"model": "words"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error")


def test_a_file_that_does_not_load_says_why_and_hurts_nobody(router: RunningServer) -> None:
    answer = complete(router, "broken")
    assert answer.status_code == 500
    told = answer.json()["error"]["message"]
    assert told.startswith("model 'broken' failed to load: ")
    assert "broken.gguf" in told
    found = status(router, "broken")
    assert (found["value"], found["failed"], found["exit_code"]) == ("unloaded", True, 1)
    assert str(found["error"]) in told
    assert complete(router, "words").status_code == 200


def test_loading_and_unloading_by_request(router: RunningServer) -> None:
    client = router.client
    if status(router, "fox")["value"] != "loaded":
        assert client.post("/models/load", json={"model": "fox"}).json() == {"success": True}
    deadline = time.monotonic() + 60
    while (found := status(router, "fox"))["value"] != "loaded":
        assert time.monotonic() < deadline
        assert found["value"] == "unloaded" or LoadProgress.read(found["progress"]) is not None
        time.sleep(0.02)
    assert "progress" not in found
    again = client.post("/models/load", json={"model": "fox"})
    assert (again.status_code, again.json()["error"]["message"]) == (400, "model is already running")
    assert client.post("/models/unload", json={"model": "fox"}).json() == {"success": True}
    assert status(router, "fox")["value"] == "unloaded"
    assert client.post("/models/unload", json={"model": "fox"}).status_code == 400
    refused = complete(router, "fox", n=1).request.url.copy_with(query=b"autoload=false")
    assert client.post("/models/unload", json={"model": "fox"}).status_code == 200
    answer = client.post(str(refused), json={"model": "fox", "prompt": "x"})
    assert (answer.status_code, "is not loaded" in answer.text) == (400, True)


def test_a_process_that_is_killed_ends_its_answer_and_comes_back(router: RunningServer) -> None:
    assert complete(router, "words").status_code == 200
    endless = {"model": "words", "prompt": "Once", "n_predict": 200, "stream": True, "cache_prompt": False}
    last = ""
    with router.client.stream("POST", "/completion", json=endless) as stream:
        lines = stream.iter_lines()
        next(lines)
        os.kill(process_of(router, "words"), signal.SIGKILL)
        for line in lines:
            last = line or last
    assert json.loads(last.removeprefix("data: "))["error"]["type"] == "unavailable_error" or '"stop":true' in last
    assert complete(router, "words").status_code == 200


def test_a_process_that_is_killed_while_it_loads_is_begun_anew(router: RunningServer) -> None:
    complete(router, "fox")
    with ThreadPoolExecutor(1) as others:
        asked = others.submit(complete, router, "words")
        deadline = time.monotonic() + 30
        while True:
            assert time.monotonic() < deadline
            with suppress(ValueError, OSError):  # not there yet
                os.kill(process_of(router, "words"), signal.SIGKILL)
                break
        assert asked.result().status_code == 200
    assert "model words: its process was killed (signal 9)" in router.log


def test_what_happens_is_told_as_it_happens(router: RunningServer) -> None:
    complete(router, "words")
    with router.new_client() as client, client.stream("GET", "/models/sse") as stream:
        lines = stream.iter_lines()
        next(lines)
        complete(router, "fox")
        told = [json.loads(line.removeprefix("data: ")) for line in _until(lines, '"fox"', '"loaded"')]
    states = [(one["model"], one["data"]["status"]) for one in told]
    assert list(dict.fromkeys(states)) == [("words", "unloaded"), ("fox", "loading"), ("fox", "loaded")]
    assert all("progress" in one["data"] for one in told if one["data"]["status"] == "loading")


def _until(lines: Iterator[str], *marks: str) -> Iterator[str]:
    for line in lines:
        if line.startswith("data: "):
            yield line
            if all(mark in line for mark in marks):
                return


def test_models_that_come_and_go(router: RunningServer, folder: Path) -> None:
    new = folder / "new.gguf"
    word_model().write(new)
    try:
        names = {one["id"] for one in router.client.get("/models", params={"reload": "1"}).json()["data"]}
        assert names == {"broken", "fox", "new", "words"}
    finally:
        new.unlink()
    names = {one["id"] for one in router.client.get("/models?reload=1").json()["data"]}
    assert names == {"broken", "fox", "words"}


def test_a_router_that_is_killed_leaves_no_process(folder: Path) -> None:
    with RunningServer("--models-dir", str(folder), *FLAGS, env={"HF_HUB_CACHE": "/nowhere"}) as router:
        complete(router, "words")
        child = process_of(router, "words")
        router.signal(signal.SIGKILL)
        deadline = time.monotonic() + 30
        while Path(f"/proc/{child}").exists() and "zombie" not in Path(f"/proc/{child}/status").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_presets_keys_and_doors(folder: Path, tmp_path: Path) -> None:
    preset = tmp_path / "models.ini"
    preset.write_text(
        "version = 1\n[*]\nc = 128\nLLAMA_ARG_N_PARALLEL = 2\n[words]\nalias = w\nload-on-startup = true\n"
        f"[mine]\nmodel = {folder / 'words.gguf'}\nc = 64\n"
    )
    flags = ("--models-preset", str(preset), "--api-key", "secret", "-t", "1", "--models-dir", str(folder))
    with RunningServer(*flags, env={"HF_HUB_CACHE": "/nowhere"}) as router, router.new_client("secret") as client:
        assert router.client.get("/v1/models").status_code == 401
        ids = [one["id"] for one in client.get("/v1/models").json()["data"]]
        assert ids == ["broken", "fox", "mine", "words"]
        slots = client.get("/slots", params={"model": "w"}).json()
        assert [one["n_ctx"] for one in slots] == [64, 64]
        assert client.get("/slots?model=mine").json()[0]["n_ctx"] == 32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[words]\nno-such-flag = 1\n", "[words] no-such-flag: no flag of `powerinfer server` is called so"),
        ("[other]\nc = 5\n", "[other] is no model here: give it model = FILE or hf-repo = REPO"),
        ("c = 5\n", "c stands before any section: [*] is for all models"),
        ("[words]\nmetrics = perhaps\n", "[words] metrics must be true or false, not 'perhaps'"),
        ("[words\n", "not an INI file"),
        ("[words]\nchat-template = a\0b\n", "not an INI file: it has a zero byte"),
        ("[words]\nalias = fox\n", "the alias fox of words is a name of fox, too: take another"),
    ],
)
def test_presets_that_make_no_sense(folder: Path, tmp_path: Path, text: str, message: str) -> None:
    preset = tmp_path / "models.ini"
    preset.write_text(text)
    flags = ("--models-preset", str(preset), "--models-dir", str(folder))
    server = RunningServer(*flags, wait=False, env={"HF_HUB_CACHE": "/nowhere"})
    result = server.wait()
    assert result.code == 1
    assert message in result.err
    assert result.err.count("\n") == 1


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    result = RunningServer("--models-dir", str(tmp_path / "gone"), wait=False).wait()
    assert (result.code, "gone: not a folder" in result.err) == (1, True)
    both = RunningServer("--models-dir", str(tmp_path), "-m", "x.gguf", wait=False).wait()
    assert (both.code, "-m and -hf exclude --models-dir" in both.err) == (2, True)
