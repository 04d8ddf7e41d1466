"""The soak's hostile requests: those that end at once, against a real server, which must refuse them and live."""

from collections.abc import Iterator

import pytest

from scripts.soaking.hostile_http import HOSTILE_HTTP
from tests.helpers.server_process import RunningServer

QUICK = ["few lists", "some lists", "body where none is needed", "trailers", "endless trailer", "foreign page"]


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer("-t", "1", "-np", "1") as running:
        yield running


@pytest.mark.parametrize("name", QUICK)
def test_it_is_refused(server: RunningServer, name: str) -> None:
    assert HOSTILE_HTTP[name](server.url) == ""
    assert server.client.get("/health").status_code == 200
