"""A request that is refused changes nothing: no slot's cache, no file, no later answer."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.helpers.server_process import RunningServer
from tests.helpers.word_model import word_model
from tests.serving.conftest import Servers

PROMPT = "the capital of France is a large city"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of saved slots: one that is well, and others that cannot be restored."""
    folder: Path = tmp_path_factory.mktemp("refusals") / "slots"
    folder.mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    (folder / "noise.bin").write_bytes(b"PWRSLOT2" + bytes(100))
    return folder


@pytest.fixture(scope="module")
def served(servers: Servers, folder: Path) -> Iterator[httpx.Client]:
    model = word_model().write(folder.parent / "words.gguf")
    flags = ["-m", str(model), "-c", "128", "-np", "2", "-t", "1", "--temp", "0", "--embedding"]
    server: RunningServer = servers(*flags, "--slot-save-path", str(folder))
    with server.new_client() as client:
        for slot in (0, 1):
            assert client.post("/completion", json=ask(id_slot=slot)).status_code == 200
        assert client.post("/slots/0?action=save", json={"filename": "well.bin"}).status_code == 200
        whole = (folder / "well.bin").read_bytes()
        (folder / "cut.bin").write_bytes(whole[:-1])
        # As large as it says, of the same model, and not what its cache holds.
        (folder / "other.bin").write_bytes(whole.replace(b'"0.k"', b'"7.k"', 1))
        yield client


def ask(**fields: Any) -> dict[str, Any]:
    return {"prompt": PROMPT, "n_predict": 4, **fields}


def state(client: httpx.Client, folder: Path) -> Any:
    files = {path.name: path.stat() for path in folder.iterdir()}
    sizes = {name: (found.st_size, found.st_mtime_ns, found.st_mode) for name, found in files.items()}
    return client.get("/slots").json(), sizes


RESTORED = ["pipe", "folder", "noise.bin", "cut.bin", "other.bin", "none.bin", "..", ""]
LONG = PROMPT + " large" * 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        *[("/slots/0?action=restore", {"filename": name}) for name in RESTORED],
        ("/slots/0?action=restore", None),
        ("/slots/2?action=restore", {"filename": "well.bin"}),
        ("/slots/0?action=save", {"filename": ".."}),
        ("/slots/2?action=save", {"filename": "new.bin"}),
        ("/slots/2?action=erase", None),
        ("/slots/0?action=erases", None),
        ("/completion", ask(prompt=LONG)),
        ("/completion", ask(prompt=["city", LONG])),
        ("/completion", ask(prompt=["city", [10**6]])),
        ("/completion", ask(prompt="city", logit_bias=[[0, "x"]])),
        ("/completion", ask(prompt="city", grammar="root ::= (")),
        ("/completion", ask(prompt="city", n=10**6)),
        ("/completion", ask(prompt=["city"] * 600)),
        ("/v1/completions", ask(prompt=["city", LONG])),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": LONG}]}),
        ("/v1/chat/completions", {"messages": "city"}),
        ("/v1/messages", {"messages": [{"role": "user", "content": LONG}], "max_tokens": 4}),
        ("/v1/responses", {"input": LONG}),
        ("/v1/responses", {"input": "city", "n": 2}),
        ("/embedding", {"content": ["city", LONG]}),
        ("/v1/embeddings", {"input": [["city"], [10**6]]}),
        ("/infill", {"input_prefix": "city"}),
        ("/lora-adapters", [{"id": 0, "scale": 1.0}]),
        ("/tokenize", {"content": 10**6}),
        ("/detokenize", {"tokens": [10**6]}),
    ],
)
def test_what_is_refused_changes_nothing(served: httpx.Client, folder: Path, path: str, body: Any) -> None:
    before = state(served, folder)
    answer = served.post(path, json=body) if body is not None else served.post(path)
    assert 400 <= answer.status_code < 500, answer.text[:200]
    assert answer.json()["error"]["message"].strip()
    assert state(served, folder) == before


def test_what_was_cached_is_still_cached(served: httpx.Client) -> None:
    for slot in (0, 1):
        assert served.post("/completion", json=ask(id_slot=slot)).json()["timings"]["prompt_n"] == 1
    assert served.post("/slots/1?action=restore", json={"filename": "well.bin"}).status_code == 200
