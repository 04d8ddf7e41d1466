"""What the door makes of what a replica, or the way to it, raises: with a stand-in of Serve's handle."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import pytest

from powerinfer_cli.cluster.replicas.forwarding import Failed, Lost
from powerinfer_cli.cluster.replicas.questions import Part, Question
from powerinfer_cli.serving.errors import APIError, unavailable
from tests.helpers.cluster.replicas import needs_ray

pytestmark = needs_ray


class _Response:
    """A part, and then an error. cancelled: nobody wants the rest."""

    def __init__(self, error: BaseException) -> None:
        self._error, self.cancelled = error, False

    async def __aiter__(self) -> AsyncGenerator[Part, None]:
        yield Part(b"1")
        raise self._error

    def cancel(self) -> None:
        self.cancelled = True


def asked(error: BaseException) -> None:
    """Raises what the door gets."""
    from powerinfer_cli.cluster.replicas.app import _asking

    response = _Response(error)
    method = SimpleNamespace(remote=lambda question: response)
    handle: Any = SimpleNamespace(options=lambda **options: method)

    async def all_of_it() -> None:
        async with aclosing(_asking(handle)(Question("GET", "/"))) as parts:
            async for part in parts:
                assert part == Part(b"1")

    try:
        asyncio.run(all_of_it())
    finally:
        assert response.cancelled


def rpc_error(name: str) -> Exception:
    """What gRPC raises."""
    from grpc import StatusCode
    from grpc.aio import AioRpcError, Metadata

    return AioRpcError(StatusCode[name], Metadata(), Metadata(), "larger than max (5 vs. 4)\nand so on")


def test_what_a_replica_raises_is_a_failure() -> None:
    with pytest.raises(Failed, match=r"^KeyError: 'x'$"):
        asked(KeyError("x"))


def test_what_would_fail_again_is_no_death() -> None:
    with pytest.raises(Failed, match=r"^RESOURCE_EXHAUSTED: larger than max \(5 vs. 4\)$"):
        asked(rpc_error("RESOURCE_EXHAUSTED"))


@pytest.mark.parametrize("name", ["UNAVAILABLE", "CANCELLED"])
def test_a_connection_that_breaks_is_a_death(name: str) -> None:
    with pytest.raises(Lost, match=name):
        asked(rpc_error(name))


def test_work_that_is_cancelled_there_is_a_death() -> None:
    with pytest.raises(Lost):
        asked(asyncio.CancelledError())


def test_what_clients_are_to_be_told_stays() -> None:
    with pytest.raises(APIError, match="later"):
        asked(unavailable("later"))
