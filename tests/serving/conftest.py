"""Servers that tests share: one for each set of flags and session. For another set: `servers(*flags)`."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx
import pytest
from openai import OpenAI

from tests.helpers.server_process import RunningServer

Servers = Callable[..., RunningServer]

USUAL = ("-c", "1024", "-np", "4", "-t", "1", "--temp", "0", "--seed", "42", "--metrics", "--alias", "storyteller")


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """A server with these flags, which lives until the session ends; the bundled model, unless -m says otherwise."""
    with ExitStack() as stack:
        running: dict[tuple[str, ...], RunningServer] = {}

        def server(*flags: str) -> RunningServer:
            if flags not in running:
                running[flags] = stack.enter_context(RunningServer(*flags))
            return running[flags]

        yield server


@pytest.fixture(scope="session")
def server(servers: Servers) -> RunningServer:
    """The usual one: greedy, four slots of 1024 tokens that share the context, /metrics on."""
    return servers(*USUAL, "--kv-unified")


@pytest.fixture(scope="session")
def client(server: RunningServer) -> httpx.Client:
    """Of the usual server."""
    return server.client


@pytest.fixture(scope="session")
def openai(server: RunningServer) -> Iterator[OpenAI]:
    """OpenAI's own client of the usual server."""
    with server.openai() as client:
        yield client
