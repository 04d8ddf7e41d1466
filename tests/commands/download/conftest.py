"""A hub, and a command line that asks it, of each module."""

from collections.abc import Iterator

import pytest

from tests.helpers.bamboo_repo import REPO, bamboo
from tests.helpers.download_cli import Cli
from tests.helpers.hub_server import HubServer


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HubServer, Cli]]:
    with HubServer({}) as hub, Cli(tmp_path_factory.mktemp("home"), hub.url) as cli:
        yield hub, cli


@pytest.fixture
def hub(served: tuple[HubServer, Cli]) -> HubServer:
    """The module's hub, with one repository and nothing wrong with it."""
    hub = served[0]
    hub.repos = {REPO: bamboo()}
    hub.requests.clear()
    hub.breaks, hub.refuse = {}, {}
    hub.pause, hub.ranges, hub.token, hub.api_body = 0.0, True, None, None
    return hub


@pytest.fixture
def cli(served: tuple[HubServer, Cli]) -> Cli:
    return served[1]
