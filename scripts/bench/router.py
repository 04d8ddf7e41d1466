#!/usr/bin/env python3
"""Measure what a router costs, beside a server of one model on the same file, in alternation.

    python scripts/bench/router.py                           # the bundled model
    python scripts/bench/router.py -m ~/models/SmolLM2.gguf --rounds 5

Told are medians: a small request's extra latency; tokens a second of one stream; going from one loaded model to
another; the time from a request to its first token where the model is to be loaded, beside `powerinfer main`'s as a
whole process; and where it is to be woken, beside that.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from powerinfer_cli.opening.bundled import bundled_model  # noqa: E402  # after the path is set
from scripts.clients.process import running, server_command  # noqa: E402  # after the path is set

FLAGS = ("-c", "1024", "-np", "1")
SMALL, STREAMED = 200, 256  # requests of a round; tokens of a stream
MS = 1e3


def small(client: httpx.Client, model: str) -> float:
    """Milliseconds of a request that does next to nothing."""
    began = time.perf_counter()
    for _ in range(SMALL):
        client.post("/tokenize", json={"model": model, "content": "Once"}).raise_for_status()
    return MS * (time.perf_counter() - began) / SMALL


def first_token(client: httpx.Client, model: str) -> float:
    """Milliseconds until it has come."""
    began = time.perf_counter()
    body = {"model": model, "prompt": "Once upon a time", "n_predict": 1, "cache_prompt": False}
    client.post("/completion", json=body).raise_for_status()
    return MS * (time.perf_counter() - began)


def stream(client: httpx.Client, model: str) -> float:
    """Tokens a second, as a client sees them come."""
    body = {"model": model, "prompt": "Once upon a time", "n_predict": STREAMED, "stream": True, "ignore_eos": True}
    times = []
    with client.stream("POST", "/completion", json=body) as answer:
        times = [time.perf_counter() for line in answer.iter_lines() if line.startswith("data: ")]
    return (len(times) - 1) / (times[-1] - times[0])


def switched(client: httpx.Client) -> float:
    """Milliseconds more than staying, for a small request to the other of two loaded models."""
    staying = small(client, "a")
    began = time.perf_counter()
    for index in range(SMALL):
        client.post("/tokenize", json={"model": "ab"[index % 2], "content": "Once"}).raise_for_status()
    return MS * (time.perf_counter() - began) / SMALL - staying


def loaded(client: httpx.Client) -> float:
    """Milliseconds to the first token of a model that is not loaded."""
    client.post("/models/unload", json={"model": "c"})
    return first_token(client, "c")


def main_process(path: Path) -> float:
    """Milliseconds of `powerinfer main` for one token."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "powerinfer_cli", "main", "-m", str(path), "-p", "Once upon a time", "-n", "1"]
    subprocess.run(
        [*command, "-c", "1024"], capture_output=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    return MS * (time.perf_counter() - began)


def woken(client: httpx.Client) -> float:
    """Milliseconds to the first token of a server that sleeps."""
    while not client.get("/props").json()["is_sleeping"]:
        time.sleep(0.1)
    return first_token(client, "a")


def measure(path: Path, rounds: int) -> dict[str, list[float]]:
    """Figures by name, one of each round."""
    found: dict[str, list[float]] = defaultdict(list)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        models = folder / "models"
        models.mkdir()
        for name in "abc":
            shutil.copy(path, models / f"{name}.gguf")
        os.environ["HF_HUB_CACHE"] = str(folder / "hub")

        def client(*flags: str) -> httpx.Client:
            log = stack.enter_context((folder / f"{len(flags)}.log").open("wb"))
            server = stack.enter_context(running(server_command(*FLAGS, *flags), log))
            url = f"http://127.0.0.1:{server.port}"
            return stack.enter_context(httpx.Client(base_url=url, timeout=300.0))

        alone, router = client("-m", str(models / "a.gguf")), client("--models-dir", str(models))
        sleeper = client("-m", str(models / "a.gguf"), "--sleep-idle-seconds", "1")
        cases: dict[str, Callable[[], float]] = {
            "small request, alone, ms": lambda: small(alone, "a"),
            "small request, router, ms": lambda: small(router, "a"),
            "stream, alone, tokens/s": lambda: stream(alone, "a"),
            "stream, router, tokens/s": lambda: stream(router, "a"),
            "switch between loaded models, ms": lambda: switched(router),
            "first token of a load, router, ms": lambda: loaded(router),
            "first token of `main`, ms": lambda: main_process(path),
            "first token of a sleeper, ms": lambda: woken(sleeper),
        }
        for one in (alone, router, sleeper):
            first_token(one, "a")
        first_token(router, "b")
        for _ in range(rounds):
            for name, case in cases.items():
                found[name].append(case())
    return found


def main() -> None:
    """A line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", type=Path, default=bundled_model(), metavar="FILE")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    args = parser.parse_args()
    medians = {name: statistics.median(values) for name, values in measure(args.model, args.rounds).items()}
    for name, value in medians.items():
        print(f"{name:36} {value:10.2f}")
    extra = medians["small request, router, ms"] - medians["small request, alone, ms"]
    ratio = medians["stream, router, tokens/s"] / medians["stream, alone, tokens/s"]
    print(f"extra latency {extra:.2f} ms; stream {ratio:.3f}x")


if __name__ == "__main__":
    main()
