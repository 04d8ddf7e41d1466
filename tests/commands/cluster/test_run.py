"""`powerinfer cluster run`, as processes: the text is that of `main`, and who is killed is named."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from openai import OpenAI

from powerinfer_cli.cli import app
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.opening import open_model
from tests.helpers.cluster.ranks import free_port
from tests.helpers.server_process import RunningServer

ENV = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "MASTER_ADDR")}
PROMPTS = ("Once upon a time", "The owl said that")
TEXT = ["-t", "1", "-p", "Once upon a time", "-n", "12", "--temp", "0"]


def started(rank: int, port: int, *words: str) -> subprocess.Popen[str]:
    ranks = ["--rank", str(rank), "--world-size", "2", "--master", f"127.0.0.1:{port}"]
    command = [sys.executable, "-m", "powerinfer_cli", "cluster", "run", *ranks, *words]
    return subprocess.Popen(
        command, env=ENV, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "powerinfer_cli", *words]
    return subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("layers", "note"), [([], "rank 1: layers 3 to 4"), (["--layers", "0-0,1-4"], "rank 1: layers 1 to 4")]
)
def test_text_is_that_of_one_machine(layers: list[str], note: str) -> None:
    port = free_port()
    other, first = started(1, port, *TEXT, *layers), started(0, port, *TEXT, *layers)
    text, notes = first.communicate(timeout=60)
    _, told = other.communicate(timeout=30)
    assert (first.returncode, other.returncode) == (0, 0), notes + told
    assert text == run("main", *TEXT).stdout
    assert note in notes


def test_who_is_gone_is_named() -> None:
    """While rank 0 waits for a line of somebody's."""
    port, chat = free_port(), ["-t", "1", "-i"]
    other = started(1, port, *chat)
    ranks = ["--rank", "0", "--world-size", "2", "--master", f"127.0.0.1:{port}"]
    command = [sys.executable, "-m", "powerinfer_cli", "cluster", "run", *ranks, *chat, "-p", "A", "-n", "4"]
    pipe = subprocess.PIPE
    first = subprocess.Popen(command, env=ENV, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    assert first.stdout is not None
    assert first.stderr is not None
    try:
        assert first.stdout.read(1) == "A"
        begin = time.monotonic()
        other.kill()
        notes = first.stderr.read()
        assert first.wait(20) == 1
        assert time.monotonic() - begin < 10
    finally:
        for process in (first, other):
            process.kill()
            process.communicate()
    assert notes.strip().splitlines()[-1] == "error: rank 1 (127.0.0.1) has ended"


def test_clients_of_its_server() -> None:
    """OpenAI's client, several texts at once; the page."""
    port, own = free_port(), ["-t", "1", "-c", "512", "-np", "2", "--device", "cpu"]
    ranks = ["--world-size", "2", "--master", f"127.0.0.1:{port}"]
    other = started(1, port, *own, "--port", "0")
    try:
        with (
            RunningServer(*ranks, "--rank", "0", *own, command=("cluster", "run")) as server,
            server.openai() as client,
            ThreadPoolExecutor(2) as pool,
        ):
            asked = [pool.submit(_completed, client, prompt) for prompt in PROMPTS]
            found = [one.result() for one in asked]
            assert "<html" in server.client.get("/").text
            server.signal(signal.SIGTERM)
            server.wait()
    finally:
        _, notes = other.communicate(timeout=30)
    assert (other.returncode, "no effect" in notes) == (0, False), notes
    with open_model(n_ctx=512, n_threads=1, device="cpu") as model:
        assert found == [model.generate(prompt, max_tokens=12, temperature=0.0).read().text for prompt in PROMPTS]


def _completed(client: OpenAI, prompt: str) -> str:
    """As it is streamed."""
    pieces = client.completions.create(model="any", prompt=prompt, max_tokens=12, temperature=0.0, stream=True)
    return "".join(piece.choices[0].text for piece in pieces if piece.choices)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["run", *["--rank", "0", "--world-size", "2", "--master", "203.0.113.7"]], "a secret that they share"),
        (["run", *["--rank", "0", "--world-size", "9"]], "9 ranks are more than the model has layers, which are 5"),
        (["run", *["--rank", "1", "--world-size", "2", "--cluster-timeout", "1", "--port", "0"]], "tried for 1 s"),
        (["run", *["--world-size", "2", "--rank", "0", "--port", "0", "--sleep-idle-seconds", "5"]], "started anew"),
        (["run", *["--rank", "0", "--world-size", "2", "--layers", "0-4"]], "--layers has 1 ranges, but there are 2"),
        (["run", *["--rank", "0", "--world-size", "2", "--layers", "0-1,2-7"]], "ends with layer 7, but the model's"),
        (["run", *["--world-size", "2", "--rank", "0", "--adaptive", "auto"]], "--adaptive auto is not for ranks"),
        (["run", "--hosts", "a,,b"], "a host that is empty"),
        (["walk"], "there is no command 'cluster walk'"),
    ],
)
def test_refusals(monkeypatch: pytest.MonkeyPatch, words: list[str], line: str) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    with pytest.raises(PowerInferError) as raised:
        app(["cluster", *words], standalone_mode=False)
    assert line in str(raised.value)
