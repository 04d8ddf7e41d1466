"""The door of replicas that are full: with stand-ins of them."""

import asyncio
from collections.abc import AsyncGenerator

import httpx

from powerinfer_cli.cluster.replicas.door import Door
from powerinfer_cli.cluster.replicas.questions import Head, Part, Question
from powerinfer_cli.serving.http.logs import Log
from powerinfer_cli.serving.options import ServerOptions


def test_who_needs_no_slot_is_answered_where_the_queue_is_full() -> None:
    """One replica with two texts, two that wait; the fifth is refused until one of them is done."""
    free = asyncio.Event()

    async def ask(question: Question) -> AsyncGenerator[Part, None]:
        if question.writes:
            await free.wait()
        yield Part(b"{}", Head(200, ((b"content-type", b"application/json"),), "a"), last=True)

    async def asked() -> None:
        door = Door(ask, lambda: ("a",), ServerOptions(queue=2), Log(quiet=True), each=2)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url="http://door") as client:
            texts = [asyncio.create_task(client.post("/completion", json={"prompt": "x"})) for _ in range(4)]
            while door.busy < 4:
                await asyncio.sleep(0)
            refused = await client.post("/completion", json={"prompt": "x"})
            assert refused.status_code == 503
            assert "too many requests wait" in refused.json()["error"]["message"]
            assert (await client.get("/health")).json() == {"status": "ok"}
            assert (await client.post("/tokenize", json={"content": "x"})).status_code == 200
            assert (await client.get("/v1/models")).status_code == 200
            free.set()
            assert {(await text).status_code for text in texts} == {200}
            assert (await client.post("/completion", json={"prompt": "x"})).status_code == 200

    asyncio.run(asked())
