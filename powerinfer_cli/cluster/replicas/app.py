"""The application on Ray Serve: a door, and replicas of one model's server behind it."""

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextvars import Context
from typing import Any

from grpc import RpcError, StatusCode
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from powerinfer_cli.cluster.replicas.door import Door, make_door
from powerinfer_cli.cluster.replicas.forwarding import Ask, Failed, Lost
from powerinfer_cli.cluster.replicas.present import names_of
from powerinfer_cli.cluster.replicas.questions import Part, Question
from powerinfer_cli.cluster.replicas.replica import Load, Replica
from powerinfer_cli.cluster.replicas.shares import Fleet
from powerinfer_cli.serving.errors import APIError, unavailable
from powerinfer_cli.serving.http.logs import Log
from powerinfer_cli.serving.options import ServerOptions

__all__ = ["DOOR", "REPLICAS", "application"]

REPLICAS, DOOR = "replicas", "door"
SPARE = 64  # requests that need no slot, beside those that do
HEALTH_S, SICK_S = 1.0, 30.0  # between two looks at a replica, and how long it may take to answer
SOONEST_S, LATEST_S = 0.01, 0.1  # between two looks for a slot, of a request that waits for one
MOST_AT_DOOR = 1 << 14
GONE = StatusCode.UNAVAILABLE, StatusCode.CANCELLED  # a connection that breaks, and a server of a process that ends


class DoorDeployment:
    """Ray Serve calls what has no underscore, and `__serve_build_asgi_app__`."""

    def __init__(self, replicas: DeploymentHandle, options: ServerOptions, log: Log, slots: int) -> None:
        sys.stderr = sys.__stderr__ or sys.stderr  # Serve's goes to a file of Ray's
        self._options = options
        self._door = Door(_asking(replicas), lambda: names_of(REPLICAS), options, log, 2 * slots)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return make_door(self._door, self._options)

    async def stop(self) -> None:
        """Nobody is let in any more."""
        self._door.stopping = True

    async def end(self) -> None:
        """What is under way is told that it ends now."""
        self._door.over.set()

    async def busy(self) -> int:
        """Requests under way."""
        return self._door.busy


def application(load: Load, options: ServerOptions, log: Log, fleet: Fleet) -> serve.Application:
    """Raises ValueError: numbers that Ray does not take."""
    sizes: dict[str, Any] = {"num_replicas": fleet.least}
    if fleet.least < fleet.most:
        sizes = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=fleet.least,
                initial_replicas=fleet.least,
                max_replicas=fleet.most,
                target_ongoing_requests=fleet.slots,
                upscale_delay_s=5.0,
                downscale_delay_s=120.0,
            )
        }
    replicas = serve.deployment(Replica).options(
        name=REPLICAS,
        **sizes,
        ray_actor_options={"num_cpus": fleet.cpus, "num_gpus": fleet.gpus},
        max_ongoing_requests=2 * fleet.slots + SPARE,
        max_queued_requests=-1,  # the door counts texts, and nothing else
        health_check_period_s=HEALTH_S,
        health_check_timeout_s=SICK_S,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=fleet.draining_s,
        max_constructor_retry_count=3,
        request_router_config=RequestRouterConfig(
            request_router_class="powerinfer_cli.cluster.replicas.routing.PrefixRouter",
            request_router_kwargs={"slots": fleet.slots},
            initial_backoff_s=SOONEST_S,
            max_backoff_s=LATEST_S,
        ),
    )
    door = serve.deployment(serve.ingress()(DoorDeployment)).options(
        name=DOOR,
        num_replicas=1,  # its router counts what each replica has in work; of two, each would see half
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=MOST_AT_DOOR,
        health_check_period_s=HEALTH_S,
        health_check_timeout_s=SICK_S,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=fleet.draining_s,
    )
    bound: serve.Application = door.bind(replicas.bind(load, options, log), options, log, fleet.slots)
    return bound


def _asking(replicas: DeploymentHandle) -> Ask:
    handle = replicas.options(stream=True, method_name="answer")

    async def ask(question: Question) -> AsyncGenerator[Part, None]:
        # Each call needs a number of its own; in the context of the client's request all would have the same.
        response: Any = Context().run(handle.remote, question)
        ended = False
        try:
            async for part in response:
                yield part
            ended = True
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise Lost("its work was cancelled") from error  # there, and sent here as what it raised
        except Exception as error:
            raise _meaning(error) from error
        finally:
            if not ended:
                response.cancel()

    return ask


def _meaning(error: Exception) -> Exception:
    """APIError, Lost or Failed. Over gRPC, what a replica raises comes as it is."""
    if isinstance(error, BackPressureError):
        return unavailable("too many requests wait already")
    if isinstance(error, DeploymentUnavailableError):
        return unavailable("no replica can be started: the log says why", retry_after_s=30)
    if isinstance(error, RayError) and not isinstance(error, RayTaskError):
        return Lost(type(error).__name__)
    if isinstance(error, RpcError):
        name = error.code().name
        return Lost(name) if error.code() in GONE else _failed(error.details(), name)
    cause = error.cause if isinstance(error, RayTaskError) else error
    return cause if isinstance(cause, APIError) else _failed(cause, type(cause).__name__)


def _failed(said: object, kind: str) -> Failed:
    return Failed(": ".join([kind, *str(said).splitlines()[:1]]))
