"""The service in an event loop, with a thread that never answers."""

import asyncio
from typing import Any

import pytest

from powerinfer_cli.serving.errors import APIError
from powerinfer_cli.serving.options import ServerOptions
from powerinfer_cli.serving.service import Service
from powerinfer_cli.serving.tasks import CompletionTask


class LongStep:
    """An engine's thread that is in a step which takes long."""

    stopped = False

    def submit(self, tasks: Any, emit: Any) -> range:
        return range(len(tasks))

    def cancel(self, ids: Any) -> None:
        pass

    def stop(self, timeout_s: float) -> None:
        assert timeout_s == 0
        self.stopped = True


def test_who_still_waits_is_told_of_the_end_before_the_step_has_ended() -> None:
    async def main() -> tuple[APIError, bool]:
        service, thread = Service(ServerOptions()), LongStep()
        model: Any = object()
        service.ready(model, thread)

        async def wait() -> None:
            async with service.open([CompletionTask((1,))]) as reply:
                await anext(aiter(reply))

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        service.stop()
        with pytest.raises(APIError, match="stopping") as caught:
            await asyncio.wait_for(waiting, 5)
        return caught.value, thread.stopped

    error, stopped = asyncio.run(main())
    assert (error.status, stopped) == (503, True)


def test_nothing_is_stopped_before_the_model_is_there() -> None:
    Service(ServerOptions()).stop()
