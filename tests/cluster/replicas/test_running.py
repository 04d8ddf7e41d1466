"""What a signal does to replicas that are just there, with stand-ins of Ray Serve."""

import signal
from types import SimpleNamespace
from typing import Any

import pytest

from powerinfer_cli.cluster.replicas.running import _Running
from powerinfer_cli.cluster.replicas.shares import Fleet
from powerinfer_cli.serving.http.logs import Log
from powerinfer_cli.serving.options import ServerOptions
from tests.helpers.cluster.replicas import needs_ray

pytestmark = needs_ray


class _Call:
    """A method of a deployment's handle."""

    def __init__(self, calls: list[str], name: str, value: int = 0) -> None:
        self._calls, self._name, self._value = calls, name, value

    def remote(self) -> "_Call":
        self._calls.append(self._name)
        return self

    def result(self, timeout_s: float) -> int:
        return self._value


def door(calls: list[str]) -> Any:
    """A door without requests."""
    return SimpleNamespace(**{name: _Call(calls, name) for name in ("stop", "end", "busy")})


@pytest.mark.parametrize("reached", [True, False])
def test_a_signal_before_all_is_noticed_to_be_there_drains_too(monkeypatch: pytest.MonkeyPatch, reached: bool) -> None:
    """Clients may reach the door before Serve says that all replicas have begun; who has none is not waited for."""
    from ray import serve

    calls: list[str] = []
    state = {"RUNNING": 1} if reached else {"STARTING": 1}
    found = SimpleNamespace(deployments={"door": SimpleNamespace(replica_states=state)})
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications={"powerinfer": found}))
    monkeypatch.setattr(serve, "get_deployment_handle", lambda *names: door(calls))
    monkeypatch.setattr(serve, "shutdown", lambda: calls.append("shutdown"))
    running = _Running(None, ServerOptions(), Log(quiet=True), Fleet(), shared_ray=False)
    monkeypatch.setattr(running, "_begin", lambda: None)
    running._signal(signal.SIGTERM, None)
    running.run()
    assert calls == (["stop", "busy", "shutdown"] if reached else ["shutdown"])
