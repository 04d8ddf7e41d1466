"""`powerinfer cluster serve`: several engines behind one port, by Ray Serve."""

import os
from dataclasses import replace
from pathlib import Path

from powerinfer_cli.commands.cluster.fleet import ReplicaLoader, replica_loader
from powerinfer_cli.commands.cluster.replica_flags import FleetFlags, RayFlags
from powerinfer_cli.commands.server.served_flags import ServedFlags
from powerinfer_cli.commands.server.words import ServerCommand
from powerinfer_cli.commands.shared.command_app import command_app
from powerinfer_cli.commands.shared.model_source import find_model
from powerinfer_cli.errors import PowerInferError

__all__ = ["app"]

EPILOG = """Examples:
powerinfer cluster serve --replicas 2 -t 4               two engines of four threads each, on http://127.0.0.1:8080
powerinfer cluster serve -m model.gguf --replicas auto --max-replicas 8 --api-key-file keys
powerinfer cluster serve -m model.gguf --replicas 4 --gpus-per-replica 0.5    four on two GPUs, half of the memory each
powerinfer cluster serve -hf REPO --replicas 8 --ray-address auto    on a Ray cluster that is there
All flags of `powerinfer server` that are about a model and its answers are flags of each replica."""


def serve(fleet: FleetFlags, ray: RayFlags, served: ServedFlags) -> None:
    """Serve a model by several engines, replicas, behind one port (Ray Serve; the extra `cluster`)."""
    least, most = fleet.sizes()
    share = fleet.share()
    loader = replica_loader(served)

    from powerinfer_cli.cluster.replicas.ray_here import Machine, check_ray
    from powerinfer_cli.cluster.replicas.running import serve_replicas
    from powerinfer_cli.cluster.replicas.shares import Wanted
    from powerinfer_cli.system.cores import physical_cores, usable_cores
    from powerinfer_cli.system.memory import available_memory
    from powerinfer_cli.system.sockets import free_port

    check_ray(own=ray.ray_address is None)
    if ray.ray_address is None:
        path = find_model(loader.model, loader.hf_file)
        n_bytes = _size(path)  # before anything is started; and it is fetched once
        if line := tight(least, n_bytes, available_memory()):
            loader.log.note(f"warning: {line}")
        loader = replace(
            loader, options=replace(loader.options, cache_ram_mib=each(loader.options.cache_ram_mib, most))
        )
    cores = physical_cores(usable_cores())
    threads = loader.engine.n_threads or max(1, cores // most)
    loader = replace(loader, engine=replace(loader.engine, n_threads=threads))
    options = loader.options
    if not options.port:
        options = replace(options, port=free_port())
    wanted = Wanted(least, most, loader.engine.n_sequences, float(threads), share, float(fleet.drain_seconds))

    def loads(gpus: float) -> ReplicaLoader:
        return ReplicaLoader(loader, gpus)

    here = Machine(max(cores, most * threads), ray.object_store << 20, ray.ray_address)
    serve_replicas(loads, options, loader.log, wanted, here)


def each(cache_mib: int, replicas: int) -> int:
    """Of --cache-ram, what one of the replicas of a machine gets; as `server` has it, 0 is none, and -1 no limit."""
    return max(1, cache_mib // replicas) if cache_mib > 0 else cache_mib


def tight(replicas: int, n_bytes: int, free: int) -> str | None:
    """What to say where replicas of a model, n_bytes each, may not find room in memory; all in bytes."""
    if replicas == 1 or replicas * n_bytes <= free:  # of one, its own plan tells
        return None
    gib = 1 << 30
    return (
        f"{replicas} replicas of a model of {n_bytes / gib:.1f} GiB are {replicas * n_bytes / gib:.1f} GiB, and "
        f"{free / gib:.1f} GiB of memory are free: but for what GPUs hold, lower --replicas"
    )


def _size(path: Path) -> int:
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_size
    except OSError as error:
        raise PowerInferError(f"{path}: cannot be opened: {error.strerror}") from error


app = command_app("serve", serve, EPILOG, cls=ServerCommand)
