"""`powerinfer cluster run`, as processes: the text is that of `main`, and who is killed is named."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from openai import OpenAI

from powerinfer_cli.cli import app
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.model import load_model
from powerinfer_cli.opening import bundled_model, open_model
from tests.helpers.cluster.ranks import free_port
from tests.helpers.predictor_files import save_predictors
from tests.helpers.server_process import RunningServer

ENV = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "MASTER_ADDR")}
PROMPTS = ("Once upon a time", "The owl said that")
TEXT = ["-t", "1", "-p", "Once upon a time", "-n", "12", "--temp", "0"]


Start = Callable[..., subprocess.Popen[str]]


def ranks(rank: int, port: int) -> list[str]:
    """Who says in its own words that another has not come, before it is waited for no longer here."""
    who = ["--rank", str(rank), "--world-size", "2", "--master", f"127.0.0.1:{port}"]
    return [*who, "--cluster-timeout", "30"]


@pytest.fixture
def started() -> Iterator[Start]:
    """Starts a rank's process. At the end none is left."""
    processes = list[subprocess.Popen[str]]()

    def start(
        rank: int, port: int, *words: str, stdin: int = subprocess.DEVNULL, **variables: str
    ) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "powerinfer_cli", "cluster", "run", *ranks(rank, port), *words]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, env=ENV | variables, stdin=stdin, stdout=pipe, stderr=pipe, text=True)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "powerinfer_cli", *words]
    return subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def text_of_one() -> str:
    return run("main", *TEXT).stdout


@pytest.mark.parametrize(
    ("layers", "note"), [([], "rank 1: layers 3 to 4"), (["--layers", "0-0,1-4"], "rank 1: layers 1 to 4")]
)
def test_text_is_that_of_one_machine(started: Start, text_of_one: str, layers: list[str], note: str) -> None:
    port = free_port()
    other, first = started(1, port, *TEXT, *layers), started(0, port, *TEXT, *layers)
    text, notes = first.communicate(timeout=90)
    _, told = other.communicate(timeout=20)
    assert (first.returncode, other.returncode) == (0, 0), notes + told
    assert text == text_of_one != ""
    assert note in notes


@pytest.mark.timeout(300)
def test_predictors_of_a_folder(started: Start, tmp_path: Path) -> None:
    """Which ranks must have alike; the text is one machine's."""
    model = load_model(open_gguf(bundled_model()))
    shapes = [(layer.ffn.neurons.n_ff, model.config.n_embd) for layer in model.layers]
    for name, seed in (("one", 0), ("other", 1)):
        rng = np.random.default_rng(seed)
        drawn = [(rng.standard_normal((8, n_embd)), rng.standard_normal((n_ff, 8))) for n_ff, n_embd in shapes]
        pairs = [(fc1.astype(np.float32), fc2.astype(np.float32)) for fc1, fc2 in drawn]
        save_predictors(tmp_path / name, pairs)
    own = [*TEXT, "--predictor-path", str(tmp_path / "one")]
    wanted = run("main", *own).stdout  # first: two ranks would compile the same kernels side by side
    port = free_port()
    other, first = started(1, port, *own), started(0, port, *own)
    text, notes = first.communicate(timeout=90)
    other.communicate(timeout=20)
    assert (first.returncode, other.returncode) == (0, 0), notes
    assert text == wanted != ""
    port = free_port()
    first, other = started(0, port, *own), started(1, port, *own[:-1], str(tmp_path / "other"))
    other.communicate(timeout=90)
    assert "rank 1 (127.0.0.1) was started with predictors " in first.communicate(timeout=20)[1]


def test_another_threshold_is_refused(started: Start) -> None:
    """It lets other neurons through, and so would write another text."""
    port = free_port()
    other, first = started(1, port, *TEXT, LLAMA_SPARSE_PRED_THRESHOLD="2"), started(0, port, *TEXT)
    line = "was started with LLAMA_SPARSE_PRED_THRESHOLD 2.0, rank 0 with "
    for rank in (first, other):
        assert line in rank.communicate(timeout=90)[1]
        assert rank.returncode == 1


def test_a_port_of_a_rank_that_is_taken(started: Start) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = str(taken.getsockname()[1])
        other, first = started(1, port, *TEXT, "--rank-port", number), started(0, port, *TEXT)
        told = other.communicate(timeout=90)[1]
        assert first.stderr is not None
        note = next(line for line in first.stderr if line.startswith("warning: who called"))  # it waits for another
    assert f"error: cannot listen on 127.0.0.1 port {number}: Address already in use (--rank-port)" in told
    assert f"warning: who called from 127.0.0.1 cannot listen on 127.0.0.1 port {number}" in note


def test_who_is_gone_is_named(started: Start) -> None:
    """While rank 0 waits for a line of somebody's."""
    port, chat = free_port(), ["-t", "1", "-i"]
    other = started(1, port, *chat)
    first = started(0, port, *chat, "-p", "A", "-n", "4", stdin=subprocess.PIPE)
    assert first.stdout is not None
    assert first.stderr is not None
    assert first.stdout.read(1) == "A"
    begin = time.monotonic()
    other.kill()
    notes = first.stderr.read()
    assert first.wait(20) == 1
    assert time.monotonic() - begin < 10
    assert notes.strip().splitlines()[-1] == "error: rank 1 (127.0.0.1) has ended"


def test_clients_of_its_server(started: Start) -> None:
    """OpenAI's client, several texts at once; the page."""
    port, own = free_port(), ["-t", "1", "-c", "512", "-np", "2", "--device", "cpu"]
    other = started(1, port, *own, "--port", "0")
    with (
        RunningServer(*ranks(0, port), *own, command=("cluster", "run")) as server,
        server.openai() as client,
        ThreadPoolExecutor(2) as pool,
    ):
        asked = [pool.submit(_completed, client, prompt) for prompt in PROMPTS]
        found = [one.result() for one in asked]
        assert "<html" in server.client.get("/").text
        server.signal(signal.SIGTERM)
        server.wait()
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
