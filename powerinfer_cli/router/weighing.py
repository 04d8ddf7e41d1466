"""What GPU memory gains a model, asked of a process of its own: its file may be anything."""

import asyncio
import json
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping, Sequence

from powerinfer_cli.router.division import STEPS, WEIGHED, Curve
from powerinfer_cli.system.signals import APART

__all__ = ["weighed"]

PATIENCE_S = 120.0  # costs of a machine may be measured for it, which takes seconds
LONGEST = 1 << 16  # bytes of an answer


async def weighed(words: Sequence[str], environment: Mapping[str, str]) -> Curve:
    """words: that start a model's server with all of the budget. Empty where it does not tell."""
    asked = {**environment, WEIGHED: str(STEPS)}
    try:
        process = await asyncio.create_subprocess_exec(
            *words, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, env=asked, limit=LONGEST, **APART
        )
    except OSError:
        return ()
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            return _read(await process.stdout.readline())
    except (TimeoutError, ValueError):  # ValueError: a line that is longer
        return ()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _read(answer: bytes) -> Curve:
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):
        return ()
    good = isinstance(found, list) and len(found) == STEPS + 1 and all(isinstance(one, float) for one in found)
    return tuple(found) if good and all(0 < one < float("inf") for one in found) else ()
