"""Load a router with clients over more models than it may hold, while its models' processes are killed at random.

    python -m scripts.soaking.router                          # 32 clients over 5 models, 2 at a time, for 5 minutes
    python -m scripts.soaking.router --clients 8 --seconds 30

Every request must get the answer that its model gives when it is alone, or a clear 5xx; a stream that was begun may
end with an error event. In the end no process may be left, and the router must hold no more memory than after a fifth
of the time.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from powerinfer_cli.opening.bundled import bundled_model
from scripts.clients.process import Server, running, server_command

FLAGS = ("-c", "512", "-np", "4", "-t", "1", "--temp", "0")
PROMPTS = ("Once upon a time", "One day, a bear", "The little girl", "In the forest")
ENDING_S = 6.0  # that all processes may take to end, once the router has
MOST_GROWTH = 8 << 20  # bytes of the router


@dataclass
class Load:
    """wanted: by model and prompt, the text that it writes alone. outcomes: how requests ended."""

    url: str
    wanted: dict[tuple[str, str], str] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def body(model: str, prompt: str, *, stream: bool = False) -> dict[str, object]:
    return {"model": model, "prompt": prompt, "max_tokens": 12, "temperature": 0, "stream": stream}


async def client(load: Load, number: int, until: float) -> None:
    """Asks one thing after the other."""
    chance = random.Random(number)
    async with httpx.AsyncClient(base_url=load.url, timeout=120.0) as asking:
        while time.monotonic() < until:
            model, prompt = chance.choice(sorted(load.wanted))
            stream = chance.random() < 0.5
            try:
                outcome = await (streamed if stream else whole)(load, asking, model, prompt)
            except httpx.HTTPError as error:
                outcome = f"connection: {type(error).__name__}"
                load.wrong.append(f"{model}: {outcome}: {error}")
            load.outcomes[outcome] += 1


async def whole(load: Load, asking: httpx.AsyncClient, model: str, prompt: str) -> str:
    """An answer in one piece."""
    answer = await asking.post("/v1/completions", json=body(model, prompt))
    if answer.status_code == 200:
        told = answer.json()
        return judged(load, model, prompt, told["choices"][0]["text"], told["model"])
    return refused(load, model, answer.status_code, answer.text)


async def streamed(load: Load, asking: httpx.AsyncClient, model: str, prompt: str) -> str:
    """An answer as it is written."""
    async with asking.stream("POST", "/v1/completions", json=body(model, prompt, stream=True)) as answer:
        if answer.status_code != 200:
            return refused(load, model, answer.status_code, (await answer.aread()).decode())
        text, ended, by = "", False, ""
        async for line in answer.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            event = json.loads(line[6:])
            if "error" in event:
                return refused(load, model, event["error"]["code"], event["error"]["message"], "event ")
            by = event["model"]
            for choice in event["choices"]:
                text += choice["text"]
                ended = choice["finish_reason"] is not None
        if ended:
            return judged(load, model, prompt, text, by)
    load.wrong.append(f"{model}: a stream ended without a word")
    return "cut"


def judged(load: Load, model: str, prompt: str, text: str, by: str) -> str:
    """Whether it is what that model writes alone. by: who says to have written it."""
    if text == load.wanted[model, prompt] and by == model:
        return "right"
    load.wrong.append(f"{model}: {text!r} by {by}, not {load.wanted[model, prompt]!r}")
    return "wrong"


def refused(load: Load, model: str, status: int, text: str, kind: str = "") -> str:
    """5xx are clear; anything else is not."""
    if status < 500:
        load.wrong.append(f"{model}: {status} {text[:200]}")
    return f"{kind}{status}"


def children(pid: int) -> list[int]:
    """Processes of the router's models."""
    try:
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except OSError:
        return []


async def killer(pid: int, until: float, killed: list[int]) -> None:
    """One process of a model every second or three."""
    chance = random.Random(0)
    while time.monotonic() < until:
        await asyncio.sleep(chance.uniform(1, 3))
        models = [child for child in children(pid) if b"--alias" in Path(f"/proc/{child}/cmdline").read_bytes()]
        if models:
            killed.append(chance.choice(models))
            os.kill(killed[-1], signal.SIGKILL)


async def soak(server: Server, args: argparse.Namespace) -> list[str]:
    """What is wrong."""
    load = Load(f"http://127.0.0.1:{server.port}")
    names = [f"m{n}" for n in range(args.models)]
    async with httpx.AsyncClient(base_url=load.url, timeout=120.0) as asking:
        for name in names:
            for prompt in PROMPTS:
                answer = await asking.post("/v1/completions", json=body(name, prompt))
                load.wanted[name, prompt] = answer.json()["choices"][0]["text"]
    until, killed = time.monotonic() + args.seconds, list[int]()
    clients = [client(load, n, until) for n in range(args.clients)]
    settled = asyncio.create_task(memory_after(server.process.pid, args.seconds / 5))
    await asyncio.gather(killer(server.process.pid, until, killed), *clients)
    memory = resident(server.process.pid)
    growth = memory - await settled
    print(f"{load.outcomes.total()} requests: {dict(load.outcomes.most_common())}; {len(killed)} processes killed")
    print(f"the router's memory: {memory >> 20} MiB, {growth / 2**20:+.1f} MiB since a fifth of the time")
    if growth > MOST_GROWTH:
        load.wrong.append(f"memory grew by {growth >> 20} MiB")
    if not load.outcomes["right"]:
        load.wrong.append("no request was answered")
    return load.wrong


async def memory_after(pid: int, seconds: float) -> int:
    await asyncio.sleep(seconds)
    return resident(pid)


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Exit code 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=32, metavar="N")
    parser.add_argument("--models", type=int, default=5, metavar="N", help="at most 10 (default 5)")
    parser.add_argument("--most", type=int, default=2, metavar="N", help="loaded at a time (default 2)")
    parser.add_argument("--seconds", type=float, default=300, metavar="S")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for n in range(args.models):
            shutil.copy(bundled_model(), Path(folder, f"m{n}.gguf"))
        os.environ["HF_HUB_CACHE"] = str(Path(folder, "hub"))
        flags = ("--models-dir", folder, "--models-max", str(args.most), *FLAGS)
        with Path(folder, "log").open("wb") as log, running(server_command(*flags), log) as server:
            wrong = asyncio.run(soak(server, args))
            processes = children(server.process.pid)
        deadline = time.monotonic() + ENDING_S
        while (left := [pid for pid in processes if Path(f"/proc/{pid}").exists()]) and time.monotonic() < deadline:
            time.sleep(0.1)
    wrong += [f"process {pid} is left" for pid in left]
    for line in wrong[:20]:
        print(f"wrong: {line}")
    print("all is well" if not wrong else f"{len(wrong)} things are wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
