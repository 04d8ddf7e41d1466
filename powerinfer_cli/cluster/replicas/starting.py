"""Replicas on a Ray that is there."""

import logging
import re
import warnings
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from powerinfer_cli.cluster.replicas.app import DOOR, application
from powerinfer_cli.cluster.replicas.replica import WRONG
from powerinfer_cli.cluster.replicas.shares import APPLICATION, Fleet
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.serving.http.logs import Log
from powerinfer_cli.serving.options import ServerOptions

__all__ = ["running_door", "start"]

KEEP_ALIVE_S = 75
LOGGING = {"enable_access_log": False, "log_level": "WARNING"}  # replicas have one of their own
LONGEST = 300  # characters of what Ray says


def start(load: Any, options: ServerOptions, log: Log, fleet: Fleet) -> DeploymentHandle:
    """The door, once all replicas are there. Raises PowerInferError."""
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        serve.start(
            proxy_location="HeadOnly",
            logging_config=LOGGING,
            http_options={"host": options.host, "port": options.port, "keep_alive_timeout_s": KEEP_ALIVE_S},
        )
        try:
            return serve.run(
                application(load, options, log, fleet), name=APPLICATION, route_prefix="/", logging_config=LOGGING
            )
        except RuntimeError as error:
            raise PowerInferError(_reason(str(error))) from None


def running_door() -> DeploymentHandle | None:
    """The door, if clients may have reached it already: before `start` has noticed that all are there."""
    found = serve.status().applications.get(APPLICATION)
    states = found.deployments[DOOR].replica_states if found and DOOR in found.deployments else {}
    return serve.get_deployment_handle(DOOR, APPLICATION) if states.get("RUNNING") else None


def _reason(message: str) -> str:
    """What a replica said was wrong, if Ray tells it; else what Ray says last."""
    try:
        found = serve.status().applications[APPLICATION]
        message = "\n".join([message, found.message, *(one.message for one in found.deployments.values())])
    except (KeyError, RuntimeError):
        pass
    if said := re.findall(f"{WRONG}(.*)", message):
        return str(said[-1])
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return f"the replicas cannot be started: {lines[-1][:LONGEST] if lines else 'Ray does not say why'}"
