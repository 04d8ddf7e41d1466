"""Grammars that must be compiled wait for each other, and for nobody else."""

import asyncio
import threading

import pytest

from powerinfer_cli.sampling.grammars.grammar import NotKeptError, only_kept
from powerinfer_cli.serving.compiling import with_grammars
from powerinfer_cli.serving.errors import APIError


def _compiled(begun: list[int], number: int, release: threading.Event) -> int:
    if only_kept.get():
        raise NotKeptError
    begun.append(number)
    assert release.wait(60)
    return number


def test_one_at_a_time_and_those_who_leave_are_not_served() -> None:
    async def main() -> tuple[list[int], int]:
        begun: list[int] = []
        release = threading.Event()
        tasks = [asyncio.create_task(with_grammars(lambda i=i: _compiled(begun, i, release))) for i in range(8)]
        while not begun:
            await asyncio.sleep(0.01)
        free = await with_grammars(lambda: 100)  # what needs none does not wait
        for task in tasks:
            if tasks.index(task) not in (begun[0], 7):
                task.cancel()
        await asyncio.gather(*(task for task in tasks if task.cancelling()), return_exceptions=True)
        assert len(begun) == 1
        release.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert sorted(one for one in results if isinstance(one, int)) == sorted({begun[0], 7})
        return begun, free

    begun, free = asyncio.run(main())
    assert (len(set(begun) - {7}), free) == (1, 100)


def test_a_long_line_is_refused() -> None:
    async def main() -> list[int | BaseException]:
        begun: list[int] = []
        release = threading.Event()
        tasks = [asyncio.create_task(with_grammars(lambda i=i: _compiled(begun, i, release))) for i in range(70)]
        while sum(task.done() for task in tasks) < 6:
            await asyncio.sleep(0.01)
        release.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    refused = [one for one in asyncio.run(main()) if isinstance(one, APIError)]
    assert [one.status for one in refused] == [503] * 6
    with pytest.raises(APIError, match="wait for their grammars"):
        raise refused[0]
