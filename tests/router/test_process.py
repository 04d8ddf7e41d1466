"""A model's process, when it is told to end before it has begun, or ends while somebody asks how far it is."""

import asyncio
import signal
import sys
import time
from pathlib import Path

from powerinfer_cli.router.process import ModelProcess


def sleeper(folder: Path) -> ModelProcess:
    return ModelProcess([sys.executable, "-c", "import time; time.sleep(60)"], folder / "0.sock", {}, lambda line: None)


def test_a_process_is_told_to_end_while_it_starts(tmp_path: Path) -> None:
    async def run() -> int | None:
        process = sleeper(tmp_path)
        await asyncio.gather(process.start(), process.stop(30.0))
        return process.exit_code

    began = time.monotonic()
    assert asyncio.run(run()) == -signal.SIGTERM
    assert time.monotonic() - began < 20


def test_a_client_that_is_closed_already_is_no_fault(tmp_path: Path) -> None:
    async def run() -> bool:
        process = sleeper(tmp_path)
        await process.client.aclose()
        asyncio.get_running_loop().call_later(0.05, process.ended.set)
        return await process.loaded(lambda progress: None)

    assert asyncio.run(run()) is False
