"""What a Serve config file names: `powerinfer cluster config` writes one. Its arguments are the flags of a replica."""

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from powerinfer_cli.commands.cluster.fleet import ReplicaLoader, replica_of_words

if TYPE_CHECKING:
    from ray.serve import Application

__all__ = ["ClusterArgs", "app"]


class ClusterArgs(BaseModel):
    """flags: as of `powerinfer cluster serve`, word by word. gpus, cpus: of each replica; cpus are its threads too."""

    model_config = ConfigDict(extra="forbid")

    flags: list[str] = Field(default_factory=list)
    replicas: int | Literal["auto"] = 1
    min_replicas: int = Field(default=1, ge=0)
    max_replicas: int = Field(default=4, ge=1)
    gpus_per_replica: float = Field(default=0.0, ge=0.0)
    cpus_per_replica: int = Field(default=1, ge=1, le=512)
    drain_seconds: float = Field(default=30.0, ge=0.0)


def app(args: ClusterArgs) -> "Application":
    """Called by Serve, on a node of the cluster. Raises PowerInferError: flags that make no sense."""
    from powerinfer_cli.cluster.replicas.app import application
    from powerinfer_cli.cluster.replicas.shares import Fleet

    loader = replica_of_words(args.flags)
    loader = replace(loader, engine=replace(loader.engine, n_threads=args.cpus_per_replica))
    least, most = (args.min_replicas, args.max_replicas) if args.replicas == "auto" else (args.replicas, args.replicas)
    fleet = Fleet(
        least,
        most,
        loader.engine.n_sequences,
        float(args.cpus_per_replica),
        args.gpus_per_replica,
        args.drain_seconds,
    )
    return application(ReplicaLoader(loader, args.gpus_per_replica), loader.options, loader.log, fleet)
