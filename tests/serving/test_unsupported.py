"""Routes that answer although there is nothing behind them."""

import asyncio
from typing import Any, cast

import httpx
import pytest

from powerinfer_cli.serving.app import make_app
from powerinfer_cli.serving.http.logs import Log
from powerinfer_cli.serving.service import Service
from tests.serving.fake_service import FakeService, post


def test_no_adapters_are_loaded() -> None:
    app: Any = make_app(cast(Service, FakeService(lambda task: ())), Log(quiet=True))

    async def main() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.get("/lora-adapters")

    answer = asyncio.run(main())
    assert (answer.status_code, answer.json()) == (200, [])


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ([], 200, {"success": True}),
        ([{"id": 0, "scale": 0.5}], 400, "invalid_request_error"),
        ({"id": 0}, 400, "invalid_request_error"),
        (None, 400, "invalid_request_error"),
    ],
)
def test_scales_of_no_adapters(body: Any, status: int, told: Any) -> None:
    answer, _ = post("/lora-adapters", body, lambda task: ())
    assert answer.status_code == status
    assert answer.json() == told or answer.json()["error"]["type"] == told
