#!/usr/bin/env python3
"""Load a server with many clients that behave well, badly and strangely, and see that it stands that.

Good requests must be answered, with the very answers that they get alone; bad ones must be refused with a 4xx status;
some clients vanish or read slowly. In the end memory must be where it was after warming up, and every slot free.

    python scripts/soak.py                                    # 64 clients for 5 minutes, on the bundled model
    python scripts/soak.py --clients 16 --seconds 30 -- -np 8 --vram-budget 0     # more flags for the server
    python scripts/soak.py --hostile                # small requests that are meant to do harm, beside 3 ordinary users
"""

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402  # after the path is set
from rich.table import Table  # noqa: E402  # after the path is set

from scripts.clients.http import ask  # noqa: E402  # after the path is set
from scripts.clients.process import Server, running, server_command  # noqa: E402  # after the path is set
from scripts.soaking.behaviour import BEHAVIOURS, Reference, references  # noqa: E402  # after the path is set
from scripts.soaking.hostile import Siege, besiege, lines_of  # noqa: E402  # after the path is set
from scripts.soaking.hostile_templates import guarded  # noqa: E402  # after the path is set
from scripts.soaking.outcome import Outcome, flat, problems  # noqa: E402  # after the path is set

FLAGS = ("-c", "4096", "-np", "4", "-t", "2", "--metrics", "--alias", "soak", "--embedding", "--pooling", "mean")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
SETTLE_S = 10.0  # that slots have to become free in the end
SAMPLES_A_SECOND = 2


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64, metavar="N", help="at a time (default 64)")
    parser.add_argument("--seconds", type=float, default=300, metavar="S", help="of load (default 300)")
    parser.add_argument("--warm-up", type=float, metavar="S", help="load before memory counts (default: a fifth)")
    parser.add_argument("--growth", type=float, default=0.02, metavar="N", help="of memory, at most (default 0.02)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what clients do (default 0)")
    parser.add_argument("--hostile", action="store_true", help="attacks, one after the other, beside a few users")
    parser.add_argument("--only", default="", metavar="WORDS", help="with --hostile: attacks whose names have these")
    parser.add_argument("--users", type=int, default=3, metavar="N", help="with --hostile (default 3)")
    parser.add_argument("--log", type=Path, metavar="FILE", help="keep the server's log")
    parser.add_argument("flags", nargs="*", help="for the server, after --")
    args = parser.parse_args(arguments)
    if args.clients < 1 or args.seconds <= 0:
        parser.error("--clients and --seconds must be positive")
    return args


async def client(port: int, known: Sequence[Reference], draw: random.Random, end: float, outcome: Outcome) -> None:
    """One thing after another until the time is over, each on a connection of its own."""
    names, weights = zip(*((name, weight) for name, (weight, _) in BEHAVIOURS.items()), strict=True)
    while time.monotonic() < end:
        (name,) = draw.choices(names, weights)
        try:
            wrong = await BEHAVIOURS[name][1](port, known, draw)
        except (OSError, ValueError, asyncio.IncompleteReadError) as error:
            wrong = f"{type(error).__name__}: {error}"
        outcome.count(name, wrong)


async def watch_memory(server: Server, outcome: Outcome, begin: float) -> None:
    """Sample the server's memory until cancelled."""
    while True:
        outcome.memory.append((time.monotonic() - begin, server.resident_bytes()))
        await asyncio.sleep(1 / SAMPLES_A_SECOND)


async def busy_slots(port: int) -> int:
    """Slots that still work after everybody has gone, and some time to notice it."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        slots = (await ask(port, "/slots")).json()
        busy = sum(bool(slot["is_processing"]) for slot in slots)
        if not busy or time.monotonic() > deadline:
            return busy
        await asyncio.sleep(0.1)


async def soak(server: Server, args: argparse.Namespace) -> Outcome:
    """All clients at a time."""
    outcome = Outcome()
    known = await references(server.port)
    begin = time.monotonic()
    memory = asyncio.create_task(watch_memory(server, outcome, begin))
    draws = [random.Random(args.seed * 10_000 + number) for number in range(args.clients)]
    await asyncio.gather(*(client(server.port, known, draw, begin + args.seconds, outcome) for draw in draws))
    memory.cancel()
    outcome.busy_slots = await busy_slots(server.port)
    outcome.count("good, in the end", await BEHAVIOURS["completion"][1](server.port, known, draws[0]))
    return outcome


def show(outcome: Outcome, args: argparse.Namespace, lines: Sequence[str]) -> None:
    """The report."""
    table = Table("what clients did", "times", "wrong", "first that was wrong")
    for name, tally in sorted(outcome.tallies.items()):
        table.add_row(name, str(tally.times), str(tally.wrong), tally.first_wrong)
    console = Console(markup=False, emoji=False)
    console.print(table)
    early, late = flat(outcome.memory, warm_up(args))
    console.print(f"{args.clients} clients, {args.seconds:g} s; memory {early / 1e6:.1f} MB, then {late / 1e6:.1f} MB")
    for line in lines:
        console.print(line, style="red")
    console.print("nothing wrong" if not lines else f"{len(lines)} problems")


def warm_up(args: argparse.Namespace) -> float:
    """Seconds before memory counts."""
    return float(args.seconds / 5 if args.warm_up is None else args.warm_up)


def opened(path: Path | None) -> IO[bytes]:
    """Where the log goes; away, in the end, if no file is named."""
    return tempfile.TemporaryFile() if path is None else path.open("wb")


def show_siege(siege: Siege, lines: Sequence[str]) -> None:
    """The report of attacks."""
    table = Table("attack", "longest gap of users, s", "memory, MB more", "wrong")
    for name, size in siege.memory.items():
        gap, grown = siege.gaps.get(name, 0.0), (size - siege.before) / 1e6
        table.add_row(name, f"{gap:.2f}", f"{grown:+.0f}", siege.wrong.get(name, ""))
    console = Console(markup=False, emoji=False)
    console.print(table)
    console.print(f"memory {siege.before / 1e6:.1f} MB before, {siege.after / 1e6:.1f} MB afterwards")
    for line in lines:
        console.print(line, style="red")
    console.print("nothing wrong" if not lines else f"{len(lines)} problems")


def hostile(args: argparse.Namespace) -> int:
    """0 if no attack did harm. The folder for slots has a pipe that nobody writes to, and the template is hostile."""
    with tempfile.TemporaryDirectory() as folder, opened(args.log) as log:
        os.mkfifo(Path(folder) / "pipe")
        template = Path(folder) / "template.jinja"
        template.write_text(guarded(CHATML), encoding="utf-8")
        more = "--slot-save-path", folder, "--chat-template-file", str(template)
        with running(server_command(*FLAGS, *more, *args.flags), log) as server:
            siege = asyncio.run(besiege(server, args.users, args.seed, args.only))
            lines = lines_of(siege, server.stop())
    show_siege(siege, lines)
    return 1 if lines else 0


def main(arguments: list[str] | None = None) -> int:
    """0 if nothing went wrong."""
    args = parse(arguments)
    if args.hostile:
        return hostile(args)
    with opened(args.log) as log, running(server_command(*FLAGS, *args.flags), log) as server:
        outcome = asyncio.run(soak(server, args))
        outcome.exit_code = server.stop()
    lines = problems(outcome, warm_up(args), args.growth)
    show(outcome, args, lines)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
