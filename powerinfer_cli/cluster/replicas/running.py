"""From flags to replicas that answer, and to their end: requests under way may finish."""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from powerinfer_cli.cluster.replicas.ray_here import Machine, own_ray_lives, ray_cluster
from powerinfer_cli.cluster.replicas.shares import APPLICATION, Fleet, Wanted, shared
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.listening import listen_at
from powerinfer_cli.serving.http.logs import Log
from powerinfer_cli.serving.options import ServerOptions
from powerinfer_cli.system.signals import ENDING

__all__ = ["serve_replicas"]

LOOK_S = 0.2  # between two looks at what is under way
ALIVE_S = 2.0  # between two looks whether Ray is there
TOLD_S = 3.0  # for those that are cut off to be told so
SENT_S = 0.3  # that Ray's proxy takes to pass on what it was given last
ANSWER_S = 10.0  # that Ray may take to say something


def serve_replicas(
    loads: Callable[[float], Any], options: ServerOptions, log: Log, wanted: Wanted, machine: Machine
) -> None:
    """Until a signal ends it. loads: by a replica's share of GPUs, how it loads its model.

    Raises:
        PowerInferError: Ray is missing, a port is in use, no GPU is free for a replica, a model cannot be loaded.
    """
    if machine.address is None:
        listen_at(options.host, options.port, "--host", 1).close()  # Ray would say so to a log of its own
    with ray_cluster(machine) as gpus:
        fleet = shared(wanted, gpus)
        _Running(loads(fleet.gpus), options, log, fleet, shared_ray=machine.address is not None).run()


class RayEnded(PowerInferError):
    """It was killed, or has failed."""


class _Running:
    def __init__(self, load: Any, options: ServerOptions, log: Log, fleet: Fleet, *, shared_ray: bool) -> None:
        """shared_ray: others may use it, too."""
        self._load, self._options, self._log, self._fleet = load, options, log, fleet
        self._shared_ray = shared_ray
        self._signals = 0
        self._failure: PowerInferError | None = None
        self._changed = threading.Event()
        self._door: Any = None

    def run(self) -> None:
        before = {number: signal.signal(number, self._signal) for number in ENDING}
        try:
            fleet = self._fleet
            most = f" to {fleet.most}" if fleet.most > fleet.least else ""
            self._log.note(
                f"starting {fleet.least}{most} replicas, each with {fleet.cpus:g} cores and {fleet.gpus:g} GPUs"
            )
            threading.Thread(target=self._begin, name="loader", daemon=True).start()
            self._wait()
            self._end()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self._failure is not None and not self._signals:
            raise self._failure

    def _signal(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        self._changed.set()
        if self._signals > 1:
            os._exit(1)  # Ray's processes end with this one

    def _begin(self) -> None:
        from powerinfer_cli.cluster.replicas.starting import start

        try:
            self._door = start(self._load, self._options, self._log, self._fleet)
        except PowerInferError as error:  # the main thread tells of it
            self._failure = error
        except Exception as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            self._failure = PowerInferError(f"Ray Serve cannot be started: {said[0]}")
        self._changed.set()

    def _wait(self) -> None:
        """Until there is a signal, or something has failed."""
        import ray

        told = False
        while not self._signals and self._failure is None:
            self._changed.wait(ALIVE_S)
            if self._door is None or self._signals:
                continue
            if not told:
                told = True
                self._changed.clear()
                host = f"[{self._options.host}]" if ":" in self._options.host else self._options.host
                self._log.note(f"server is listening on http://{host}:{self._options.port}")
            try:
                if not own_ray_lives() or not any(node["Alive"] for node in ray.nodes()):
                    self._failure = RayEnded("Ray has ended: one of its processes has died")
            except Exception as error:
                self._failure = RayEnded(f"Ray has ended: {type(error).__name__}")

    def _end(self) -> None:
        """No new requests; those under way may finish for a while."""
        from ray import serve

        if isinstance(self._failure, RayEnded):
            return  # nobody is there to be told
        if self._failure is None:
            self._drain()
        try:
            if self._shared_ray:
                serve.delete(APPLICATION)
            else:
                serve.shutdown()
        except Exception as error:
            self._log.failure(error)

    def _drain(self) -> None:
        from powerinfer_cli.cluster.replicas.starting import running_door

        try:
            self._door = self._door or running_door()
            if self._door is None:
                return  # nobody was let in yet
            self._door.stop.remote().result(timeout_s=ANSWER_S)
            if left := self._busy_after(self._fleet.draining_s):
                self._log.note(f"{left} requests are cut off: --drain-seconds {self._fleet.draining_s:g} are over")
                self._door.end.remote().result(timeout_s=ANSWER_S)
                self._busy_after(TOLD_S)
                time.sleep(SENT_S)
        except Exception as error:
            self._log.failure(error)

    def _busy_after(self, seconds: float) -> int:
        """Requests that are under way yet; 0 as soon as there is none."""
        end = time.monotonic() + seconds
        while busy := int(self._door.busy.remote().result(timeout_s=ANSWER_S)):
            if time.monotonic() >= end:
                return busy
            self._log.seldom(f"ending: {busy} requests are under way")
            time.sleep(LOOK_S)
        return 0
