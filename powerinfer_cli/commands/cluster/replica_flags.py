"""The flags of `powerinfer cluster serve` and `config` beside those of `server`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from powerinfer_cli.errors import UsageError

__all__ = ["ConfigFlags", "FleetFlags", "RayFlags"]

AUTO_MOST = 4


def _replicas(*names: str, help: str, metavar: str | None = None, **limits: Any) -> Any:  # noqa: A002  # Typer's word
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel="Replicas", **limits)


@dataclass(frozen=True)
class FleetFlags:
    """How many replicas there are, and what each gets."""

    replicas: Annotated[
        str,
        _replicas("--replicas", metavar="N|auto", help="Engines; auto: as many as requests need, by those under way."),
    ] = "1"
    min_replicas: Annotated[
        int | None, _replicas("--min-replicas", metavar="N", min=1, max=10000, help="With auto: the least (default 1).")
    ] = None
    max_replicas: Annotated[
        int | None, _replicas("--max-replicas", metavar="N", min=1, max=10000, help="With auto: the most (default 4).")
    ] = None
    gpus_per_replica: Annotated[
        float | None,
        _replicas(
            "--gpus-per-replica",
            metavar="N",
            min=0,
            max=64,
            help="GPUs of each, or a part of one, as 0.5, with as much of its memory (default: all, divided evenly).",
        ),
    ] = None
    drain_seconds: Annotated[
        int,
        _replicas("--drain-seconds", metavar="N", min=0, max=86400, help="That requests may take yet, at an end."),
    ] = 30

    def sizes(self) -> tuple[int, int]:
        """The least and the most. Raises UsageError."""
        if self.replicas != "auto":
            if not (self.replicas.isascii() and self.replicas.isdigit() and 0 < int(self.replicas) <= 10000):
                raise UsageError(f"--replicas {self.replicas[:40]}: must be a number from 1 to 10000, or auto")
            if self.min_replicas is not None or self.max_replicas is not None:
                raise UsageError("--min-replicas and --max-replicas are for --replicas auto")
            return int(self.replicas), int(self.replicas)
        least = 1 if self.min_replicas is None else self.min_replicas
        most = max(least, AUTO_MOST) if self.max_replicas is None else self.max_replicas
        if most < least:
            raise UsageError(f"--min-replicas {least} is more than --max-replicas {most}")
        return least, most

    def share(self) -> float | None:
        """Of GPUs. Raises UsageError."""
        gpus = self.gpus_per_replica
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise UsageError(f"--gpus-per-replica {gpus:g}: whole GPUs, or a part of one")
        return gpus


@dataclass(frozen=True)
class RayFlags:
    """Ray on this machine, or elsewhere."""

    ray_address: Annotated[
        str | None,
        _replicas(
            "--ray-address", metavar="HOST:PORT|auto", help="A Ray cluster that is there; without, one is started."
        ),
    ] = None
    object_store: Annotated[
        int,
        _replicas("--object-store", metavar="MiB", min=80, max=1 << 20, help="Of shared memory, for Ray's objects."),
    ] = 256


@dataclass(frozen=True)
class ConfigFlags:
    """Where the file goes."""

    output: Annotated[
        Path | None, _replicas("-o", "--output", metavar="FILE", help="Write it there; without, to the terminal.")
    ] = None
