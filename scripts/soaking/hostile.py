"""Hostile clients, and the ordinary users beside whom they come.

An attack is a function of the server's base URL; it returns what was wrong with the answer, or "", or the status that
came (0: none in time). Each runs in a process of its own, as its own work must not hold up the users here:

    python -m scripts.soaking.hostile URL NAME      one attack; prints what was wrong
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.clients.http import ask, head
from scripts.clients.process import Server
from scripts.soaking import hostile_templates
from scripts.soaking.behaviour import BEHAVIOURS, references
from scripts.soaking.hostile_grammars import HOSTILE_GRAMMARS
from scripts.soaking.hostile_http import HOSTILE_HTTP
from scripts.soaking.hostile_slots import HOSTILE_SLOTS

__all__ = ["ATTACKS", "Siege", "besiege", "lines_of"]

ROOT = Path(__file__).resolve().parent.parent.parent
ATTACKS: dict[str, Callable[[str], str | int]] = {
    **{f"http: {name}": attack for name, attack in HOSTILE_HTTP.items()},
    **{f"slots: {attack.__name__.replace('_', ' ')}": attack for attack in HOSTILE_SLOTS},
    **HOSTILE_GRAMMARS,
    **{f"template: {name}": attack for name, attack in hostile_templates.ATTACKS.items()},
}
MESSAGES = [{"role": "user", "content": "Tell me a story about a fox."}]
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "likes": {"enum": ["tea", "rain"]}},
    "required": ["name", "age", "likes"],
}
TOOLS = [
    {"type": "function", "function": {"name": f"tool_{i}", "description": "A tool.", "parameters": PERSON}}
    for i in range(2)
]
WORDS = 'root ::= item+\nitem ::= word ", "\nword ::= ' + " | ".join(f'"w{i}"' for i in range(300))
CHAIN = {"dry_multiplier": 0.5, "mirostat": 0, "n_probs": 5, "logit_bias": [[5, 1.0]], "repeat_penalty": 1.1}
ORDINARY: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 16, "tools": TOOLS}),
    ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 16, "tools": TOOLS, "tool_choice": "required"}),
    ("/v1/responses", {"input": "Hello", "max_output_tokens": 8}),
    ("/completion", {"prompt": "Once", "n_predict": 16, "grammar": WORDS}),
    ("/completion", {"prompt": "Once", "n_predict": 16, **CHAIN}),
    ("/tokenize", {"content": "Once upon a time there was a fox. " * 2000, "with_pieces": True}),
]
SAMPLES_A_SECOND = 10
CALM_S = 5.0  # before the first attack
SETTLE_S = 15.0  # behind the last
ATTACK_S = 90.0
MOST_GAP_S = 1.0
MOST_GROWTH = 300e6  # bytes while attacks go on
MOST_LEFT = 0.05  # of the memory before, that may stay


@dataclass
class Siege:
    """gaps: the longest that a user waited for the next sign of the server, by attack; memory: the same, bytes."""

    before: int = 0
    after: int = 0
    wrong: dict[str, str] = field(default_factory=dict)
    gaps: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)


async def besiege(server: Server, users: int, seed: int, only: str = "") -> Siege:
    """Each attack in turn, in an order drawn by the seed, while users stream."""
    siege, now = Siege(), ["calm"]
    await use_everything(server.port, seed)
    names = [name for name in ATTACKS if only in name]
    random.Random(seed).shuffle(names)
    watching = [asyncio.create_task(user(server.port, siege, now)) for _ in range(users)]
    watching.append(asyncio.create_task(sample_memory(server, siege, now)))
    await asyncio.sleep(CALM_S)
    siege.before = server.resident_bytes()
    for name in names:
        now[0] = name
        siege.wrong[name] = await attacked(server.port, name)
    now[0] = "afterwards"
    await asyncio.sleep(SETTLE_S)
    siege.after = server.resident_bytes()
    for task in watching:
        task.cancel()
    return siege


async def use_everything(port: int, seed: int) -> None:
    """All that good and bad clients do, once: what a server loads when it is first asked for is not an attack's.

    Every slot's context is filled, as it is reserved by -c, but takes memory only when it is first used.
    """
    known, draw = await references(port), random.Random(seed)
    for _, behaviour in BEHAVIOURS.values():
        await behaviour(port, known, draw)
    bodies = [
        ("/completion", {"prompt": [300] * (slot["n_ctx"] - 16), "n_predict": 8, "id_slot": slot["id"]})
        for slot in (await ask(port, "/slots")).json()
    ]
    answers = await asyncio.gather(*(ask(port, path, body) for path, body in bodies))
    answers += [await ask(port, path, body) for path, body in ORDINARY]
    if wrong := [answer for answer in answers if answer.status != 200]:
        raise RuntimeError(f"ordinary requests are refused: {wrong[0]}")


async def attacked(port: int, name: str) -> str:
    """What was wrong with one attack's answer."""
    command = (sys.executable, "-m", "scripts.soaking.hostile", f"http://127.0.0.1:{port}", name)
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    try:
        said, _ = await asyncio.wait_for(process.communicate(), ATTACK_S)
    except TimeoutError:
        process.kill()
        await process.wait()
        return f"still there after {ATTACK_S:g} s"
    return said.decode().strip()


async def user(port: int, siege: Siege, now: list[str]) -> None:
    """One stream after the other. A gap is the time between two pieces, or until the first."""
    body = json.dumps({"prompt": "Once upon a time", "n_predict": 64, "stream": True, "ignore_eos": True}).encode()
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(head("POST", "/completion", len(body)) + body)
            last = time.perf_counter()
            while await reader.read(1 << 14):
                gap, last = time.perf_counter() - last, time.perf_counter()
                siege.gaps[now[0]] = max(siege.gaps.get(now[0], 0.0), gap)
        finally:
            writer.close()


async def sample_memory(server: Server, siege: Siege, now: list[str]) -> None:
    """Sample the server's memory until cancelled."""
    while True:
        siege.memory[now[0]] = max(siege.memory.get(now[0], 0), server.resident_bytes())
        await asyncio.sleep(1 / SAMPLES_A_SECOND)


def lines_of(siege: Siege, exit_code: int) -> list[str]:
    """A line for each thing that is not as it must be."""
    lines = [f"{name}: {wrong}" for name, wrong in siege.wrong.items() if wrong]
    lines += [f"{name}: users waited {gap:.2f} s" for name, gap in siege.gaps.items() if gap >= MOST_GAP_S]
    lines += [
        f"{name}: memory {(size - siege.before) / 1e6:+.0f} MB"
        for name, size in siege.memory.items()
        if size > siege.before + MOST_GROWTH
    ]
    if siege.after > siege.before * (1 + MOST_LEFT):
        lines.append(f"afterwards memory is {siege.after / siege.before - 1:.1%} more than before")
    if exit_code:
        lines.append(f"the server ended with code {exit_code} on SIGTERM")
    return lines


def verdict(found: str | int) -> str:
    """What is wrong with what an attack returned: the server must answer, and not have failed."""
    if isinstance(found, str):
        return found
    return f"status {found}" if found >= 500 and found != 503 else ""


def main(arguments: list[str], attacks: Mapping[str, Callable[[str], str | int]] = ATTACKS) -> None:
    """One attack."""
    url, name = arguments
    print(verdict(attacks[name](url)))


if __name__ == "__main__":
    main(sys.argv[1:])
