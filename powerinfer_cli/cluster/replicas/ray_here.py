"""Ray on this machine, for one server: it listens to this machine alone, its object store is bounded, and it ends with
this process. Or a cluster that others started.
"""

import os
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from powerinfer_cli.cluster.replicas.guarding import guarded
from powerinfer_cli.cluster.replicas.noise import quieten
from powerinfer_cli.cluster.replicas.questions import LARGEST
from powerinfer_cli.errors import PowerInferError

__all__ = ["Machine", "check_ray", "own_ray_lives", "ray_cluster"]

INSTALL = "pip install 'powerinfer[cluster]'"
# Before Ray is imported. Its own log goes to files; who reads a server's log wants the server's.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_PROMPT_ENABLED": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_COLOR_PREFIX": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a replica without a GPU's share sees none
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # on a busy machine Python takes a while to start
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "30",
}
# By the first, Ray keeps to 127.0.0.1 on any system; and replicas are no less important than other programs. Then: no
# thread more for each part of an answer to go through, each part as a message and not as an object that somebody owns
# (26 ms of work a second of the door and 18 of the proxy for one stream, in place of 48 and 30), where a request of
# any size that the door takes is one message, and less of what Ray does where nothing happens, which on two cores are
# 51 ms a second in place of 75.
OWN = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_worker_niceness": "0",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(LARGEST + (2 << 20)),
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "10000",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.3",
    "RAY_raylet_report_resources_period_milliseconds": "1000",
    "RAY_enable_metrics_collection": "0",
    "RAY_event_stats": "0",
}
OF_OTHERS = {"RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0"}  # this process has no event loop to run it in
ADDRESS_S = 5.0  # that a cluster's address may take to answer


@dataclass(frozen=True)
class Machine:
    """Of Ray on this machine: cores and bytes of its object store; address: of a cluster that is there instead."""

    cpus: int = 1
    object_store: int = 256 << 20
    address: str | None = None


def check_ray(*, own: bool) -> None:
    """own: Ray will be started by this process, and nobody else is to be listened to: what it reads is unpickled.

    Raises PowerInferError: Ray is not installed, or without Serve.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if own:  # before Ray is imported, which reads it once
        os.environ.update(OWN, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    try:
        import ray.serve  # noqa: F401  # it is there, then
    except ImportError as error:
        raise PowerInferError(f"this needs Ray Serve, which is not installed ({error.name}): {INSTALL}") from error
    if own:
        os.environ.update(OF_OTHERS)


@contextmanager
def ray_cluster(machine: Machine) -> Iterator[float]:
    """Within, Ray is there; the value is how many GPUs nobody uses.

    Raises PowerInferError: it cannot be started, or is not where it was said to be.
    """
    if machine.address is not None:
        _check_answers(machine.address)
        with _connected({"address": machine.address}, lambda: None) as gpus:
            yield gpus
        return
    with guarded() as (folder, kill):
        options = {
            "address": "local",
            "num_cpus": machine.cpus,
            "object_store_memory": machine.object_store,
            "include_dashboard": False,
            "_node_ip_address": "127.0.0.1",
            "_temp_dir": folder,
        }
        with _connected(options, kill) as gpus:
            yield gpus


@contextmanager
def _connected(options: Mapping[str, Any], kill: Callable[[], None]) -> Iterator[float]:
    """kill: ends what was started of Ray, at once."""
    import ray

    quieten()
    try:
        ray.init(**options, logging_level="error", namespace="serve")
        gpus = float(ray.available_resources().get("GPU", 0.0))
    except Exception as error:  # Ray has some of its own, and bare ones
        said = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        kill()
        raise PowerInferError(f"Ray cannot be started: {said[0]}") from error
    try:
        yield gpus
    except BaseException:
        kill()  # or the shutdown would wait for what may have died
        raise
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:  # auto, or a name that Ray knows
        return
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
        raise PowerInferError(f"--ray-address {address[:80]}: must be HOST:PORT or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ADDRESS_S).close()
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise PowerInferError(f"--ray-address {address[:80]}: no Ray answers there: {why}") from error


def own_ray_lives() -> bool:
    """Also where Ray was started by others. The cluster itself notices only after 15 s that a raylet is dead."""
    from ray._private import worker

    node = getattr(worker, "_global_node", None)  # not of its public interface
    return node is None or not node.dead_processes()
