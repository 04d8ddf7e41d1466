"""From flags to ranks that meet."""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from powerinfer_cli.commands.cluster.flags import RankFlags
from powerinfer_cli.commands.shared.flags.model import ModelFlags
from powerinfer_cli.commands.shared.flags.placement import PlacementFlags
from powerinfer_cli.commands.shared.flags.predictor import PredictorFlags
from powerinfer_cli.commands.shared.loading import Loading
from powerinfer_cli.commands.shared.model_source import find_model
from powerinfer_cli.commands.shared.termination import tidy_ending
from powerinfer_cli.errors import PowerInferError, UsageError

if TYPE_CHECKING:  # these import torch
    from powerinfer_cli.cluster.executor import PipelineExecutor, RankWishes
    from powerinfer_cli.opening.opened import ModelFiles
    from powerinfer_cli.runtime import EngineOptions

__all__ = ["RankZero", "rank_wishes", "run_rank"]

GRACE_S = 2.0  # in which whoever waits for a step says that a rank has gone
Note = Callable[[str], None]


class RankZero:
    """Makes the executor once the model's files are open. drafting: whether drafts are wanted."""

    def __init__(self, wishes: "RankWishes", *, drafting: bool) -> None:
        self._wishes, self._drafting = wishes, drafting
        self._made: PipelineExecutor | None = None

    def __call__(self, files: "ModelFiles", options: "EngineOptions") -> "PipelineExecutor":
        from powerinfer_cli.cluster.executor import PipelineExecutor

        self._made = PipelineExecutor(files, replace(options, drafting=self._drafting), self._wishes)
        return self._made

    def end(self) -> None:
        """Have the other ranks end, if they have come."""
        if self._made is not None:
            self._made.end()


def rank_wishes(flags: RankFlags, placement: PlacementFlags, note: Note) -> "RankWishes":
    """placement: of this rank's layers. Raises UsageError, or PowerInferError for a key that cannot be read."""
    from powerinfer_cli.cluster.borders import LinkType
    from powerinfer_cli.cluster.executor import RankWishes
    from powerinfer_cli.cluster.joining import Meeting
    from powerinfer_cli.cluster.seats import seat_of
    from powerinfer_cli.cluster.secret import read_key
    from powerinfer_cli.cluster.wires import is_loopback
    from powerinfer_cli.model.ranges import read_ranges

    hosts = [host.strip() for host in flags.hosts.split(",")] if flags.hosts is not None else []
    if not all(hosts):
        raise UsageError("--hosts names a host that is empty")
    seat = seat_of(flags.rank, flags.world_size, flags.master, hosts, os.environ)
    layers = None if flags.layers is None else read_ranges(flags.layers)
    if layers is not None and len(layers) != seat.n_ranks:
        raise UsageError(f"--layers has {len(layers)} ranges, but there are {seat.n_ranks} ranks: one each")
    if flags.cluster_key_file is None and not is_loopback(seat.host):
        raise UsageError(
            f"{seat.host} is not this machine alone: ranks need a secret that they share, --cluster-key-file FILE"
        )
    meeting = Meeting(seat, read_key(flags.cluster_key_file, note), float(flags.cluster_timeout), note, flags.rank_port)
    placed = placement.wishes()
    if placed.adaptive == "auto":
        raise UsageError("--adaptive auto is not for ranks, as traces are of whole models: say on or off")
    return RankWishes(meeting, LinkType(flags.link_type.value), end_with, layers, placed)


def run_rank(
    model: ModelFlags,
    hf_file: str | None,
    predictor: PredictorFlags,
    options: "EngineOptions",
    wishes: "RankWishes",
    *,
    drafting: bool,
) -> None:
    """As another rank than 0, until rank 0 ends it."""
    from powerinfer_cli.cluster.executor import serve_layers
    from powerinfer_cli.opening.opened import read_files

    path = find_model(model, hf_file)
    with tidy_ending(), Loading(wishes.meeting.note) as events:  # so that rank 0 is told why this one ends
        files = read_files(path, predictor.predictor_path, events, text=False)
        serve_layers(files, replace(options, drafting=drafting), wishes, events)


def end_with(line: str) -> None:
    """A rank has gone: nothing can be computed any more, and nobody may be waiting to be told."""
    time.sleep(GRACE_S)
    print(f"error: {line}", file=sys.stderr, flush=True)
    os._exit(PowerInferError.exit_code)
