"""The flags of `powerinfer cluster run` beside those of `main` and `server`."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["LinkFlag", "RankFlags"]


class LinkFlag(StrEnum):
    """As the cluster's LinkType."""

    F32 = "f32"
    BF16 = "bf16"


def _rank(*names: str, help: str, metavar: str | None = None, **limits: Any) -> Any:  # noqa: A002  # Typer's word
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel="Ranks", **limits)


@dataclass(frozen=True)
class RankFlags:
    """Which part of the model this process has, and how it finds the others."""

    hosts: Annotated[
        str | None,
        _rank("--hosts", metavar="A,B,...", help="All machines in order; A is rank 0. The same command on each."),
    ] = None
    rank: Annotated[int | None, _rank("--rank", metavar="N", help="Which rank this is (default: RANK).")] = None
    world_size: Annotated[
        int | None, _rank("--world-size", metavar="N", help="How many ranks there are (default: WORLD_SIZE).")
    ] = None
    master: Annotated[
        str | None,
        _rank(
            "--master",
            metavar="HOST[:PORT]",
            help="Where rank 0 is met (default: MASTER_ADDR and MASTER_PORT, or 127.0.0.1:29500).",
        ),
    ] = None
    layers: Annotated[
        str | None,
        _rank(
            "--layers",
            metavar="A-B,...",
            help="Each rank's layers, as `solve --machines` plans them; else equal bytes.",
        ),
    ] = None
    cluster_key_file: Annotated[
        Path | None,
        _rank("--cluster-key-file", metavar="FILE", help="A secret that all ranks share; a must beyond this machine."),
    ] = None
    cluster_timeout: Annotated[
        int, _rank("--cluster-timeout", metavar="N", help="Seconds to wait for the other ranks.", min=1, max=86400)
    ] = 60
    rank_port: Annotated[
        int,
        _rank(
            "--rank-port",
            metavar="N",
            help="Where the rank before calls this one, of another than 0; 0: any free port.",
            min=0,
            max=65535,
        ),
    ] = 0
    link_type: Annotated[
        LinkFlag, _rank("--link-type", help="Of numbers between ranks; bf16: half the bytes, not to the bit.")
    ] = LinkFlag.F32
