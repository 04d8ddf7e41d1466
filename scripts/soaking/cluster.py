"""Load replicas on Ray Serve with clients while the replicas' processes are killed at random.

    python -m scripts.soaking.cluster                          # 32 clients, 3 replicas, for 5 minutes
    python -m scripts.soaking.cluster --clients 8 --seconds 30 --pause 5

Every request must get the answer that a replica gives when nobody else is there; a stream that has begun may end with
an error event. After each death all replicas must answer again within 20 s. In the end no process may be left.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from scripts.clients.process import Server, running, server_command

FLAGS = ("-t", "1", "-np", "4", "-c", "2048", "--metrics", "--alias", "soak", "--drain-seconds", "5")
PROMPTS = (
    "Once upon a time, there was a little fox",
    "One day a whale and a crab",
    "The owl said to the rabbit that",
    "In a village by the sea lived a baker",
)
REPLICA = b"ray::ServeReplica:powerinfer:replicas"
FULL_S = 20.0  # that all replicas may take to answer again
ENDING_S = 15.0  # that all processes may take to end
TIMEOUT_S = 120.0


@dataclass
class Load:
    """wanted: by prompt, the text that is written alone. full: seconds from each death until all replicas answered."""

    url: str
    n_tokens: int
    wanted: dict[str, str] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    full: list[float] = field(default_factory=list)

    def body(self, prompt: str, **more: object) -> dict[str, object]:
        return {"prompt": prompt, "max_tokens": self.n_tokens, "temperature": 0, **more}


async def client(load: Load, number: int, until: float) -> None:
    """Asks one thing after the other."""
    chance = random.Random(number)
    async with httpx.AsyncClient(base_url=load.url, timeout=TIMEOUT_S) as asking:
        while time.monotonic() < until:
            prompt = chance.choice(PROMPTS)
            try:
                outcome = await (streamed if chance.random() < 0.5 else whole)(load, asking, prompt)
            except httpx.HTTPError as error:
                outcome = f"connection: {type(error).__name__}"
                load.wrong.append(f"{outcome}: {error}")
            load.outcomes[outcome] += 1


async def whole(load: Load, asking: httpx.AsyncClient, prompt: str) -> str:
    """An answer in one piece: nothing of it was sent before it is there, so no death may be seen."""
    answer = await asking.post("/v1/completions", json=load.body(prompt))
    if answer.status_code == 200:
        return judged(load, prompt, answer.json()["choices"][0]["text"], "whole")
    load.wrong.append(f"{answer.status_code} {answer.text[:200]}")
    return str(answer.status_code)


async def streamed(load: Load, asking: httpx.AsyncClient, prompt: str) -> str:
    """An answer as it is written."""
    async with asking.stream("POST", "/v1/completions", json=load.body(prompt, stream=True)) as answer:
        if answer.status_code != 200:
            load.wrong.append(f"{answer.status_code} {(await answer.aread()).decode()[:200]}")
            return str(answer.status_code)
        text = ""
        async for line in answer.aiter_lines():
            if line == "data: [DONE]":
                return judged(load, prompt, text, "stream")
            if line.startswith("data: "):
                event = json.loads(line[6:])
                if "error" in event:
                    return cut(load, prompt, text)
                text += "".join(choice["text"] for choice in event["choices"])
    load.wrong.append("a stream ended without a word")
    return "ended without a word"


def judged(load: Load, prompt: str, text: str, kind: str) -> str:
    """Whether it is what is written alone."""
    if text == load.wanted[prompt]:
        return f"right, {kind}"
    load.wrong.append(f"{text!r}, not {load.wanted[prompt]!r}")
    return "wrong"


def cut(load: Load, prompt: str, text: str) -> str:
    """An error event: what came before must be the beginning of the answer, and not nothing."""
    if text and load.wanted[prompt].startswith(text):
        return "error event"
    load.wrong.append(f"an error event behind {text!r}, of {load.wanted[prompt]!r}")
    return "wrong"


def below(pid: int) -> list[int]:
    """All processes that this one has started, and those theirs."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *below(child)]
        except OSError:
            continue
    return found


def replicas(pid: int) -> list[int]:
    return [child for child in below(pid) if command(child).startswith(REPLICA)]


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


async def killer(load: Load, pid: int, args: argparse.Namespace, until: float) -> None:
    """One replica at a time, or two, and the next when all answer again and some time has passed."""
    chance = random.Random(0)
    async with httpx.AsyncClient(base_url=load.url, timeout=TIMEOUT_S) as asking:
        while True:
            await asyncio.sleep(chance.uniform(0.2, 1) * args.pause)
            if time.monotonic() > until:
                return
            alive = replicas(pid)
            for one in chance.sample(alive, min(len(alive), 1 + (chance.random() < args.both))):
                os.kill(one, signal.SIGKILL)
            began = time.monotonic()
            await asyncio.sleep(0.5)
            while f"powerinfer:replicas {args.replicas}\n" not in (await asking.get("/metrics")).text:
                await asyncio.sleep(0.25)
            load.full.append(time.monotonic() - began)
            if load.full[-1] > FULL_S:
                load.wrong.append(f"all replicas answered again after {load.full[-1]:.1f} s")


async def soak(server: Server, args: argparse.Namespace) -> Load:
    """What has happened."""
    load = Load(f"http://127.0.0.1:{server.port}", args.tokens)
    async with httpx.AsyncClient(base_url=load.url, timeout=TIMEOUT_S) as asking:
        for prompt in PROMPTS:
            answer = await asking.post("/v1/completions", json=load.body(prompt))
            load.wanted[prompt] = answer.json()["choices"][0]["text"]
    until = time.monotonic() + args.seconds
    clients = [client(load, n, until) for n in range(args.clients)]
    await asyncio.gather(killer(load, server.process.pid, args, until), *clients)
    return load


def main() -> None:
    """Exit code 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=32, metavar="N")
    parser.add_argument("--replicas", type=int, default=3, metavar="N")
    parser.add_argument("--seconds", type=float, default=300, metavar="S")
    parser.add_argument("--tokens", type=int, default=200, metavar="N", help="of an answer (default 200)")
    parser.add_argument("--pause", type=float, default=5, metavar="S", help="at most, between full service and a death")
    parser.add_argument("--both", type=float, default=0.25, metavar="P", help="chance that two die at once")
    parser.add_argument("flags", nargs="*", help="for the cluster, after --")
    args = parser.parse_args()
    flags = ("--replicas", str(args.replicas), *FLAGS, *args.flags)
    with tempfile.TemporaryFile() as log:
        with running([*server_command()[:-1], "cluster", "serve", *flags], log) as server:
            load = asyncio.run(soak(server, args))
            processes = below(server.process.pid)
        deadline = time.monotonic() + ENDING_S
        while (left := [pid for pid in processes if Path(f"/proc/{pid}").exists()]) and time.monotonic() < deadline:
            time.sleep(0.1)
    wrong = [*load.wrong, *(f"process {pid} is left" for pid in left)]
    print(f"{load.outcomes.total()} requests: {dict(load.outcomes.most_common())}")
    times = sorted(load.full) or [0.0]
    print(
        f"{len(load.full)} times replicas were killed; all answered again after {statistics.median(times):.1f} s, "
        f"at most {times[-1]:.1f} s"
    )
    for line in wrong[:20]:
        print(f"wrong: {line}")
    print("all is well" if not wrong else f"{len(wrong)} things are wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
