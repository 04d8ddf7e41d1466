"""`powerinfer cluster run --port`: rank 0 serves as `server` does, the others compute their layers for it."""

from dataclasses import replace

from powerinfer_cli.commands.cluster.flags import RankFlags
from powerinfer_cli.commands.cluster.ranks import RankZero, rank_wishes, run_rank
from powerinfer_cli.commands.cluster.run_text import EPILOG
from powerinfer_cli.commands.server.command import serve_texts, with_slots
from powerinfer_cli.commands.server.flags import RouterFlags
from powerinfer_cli.commands.server.served_flags import ServedFlags
from powerinfer_cli.commands.server.words import ServerCommand
from powerinfer_cli.commands.shared.command_app import command_app
from powerinfer_cli.commands.shared.flags.machine import with_machine
from powerinfer_cli.commands.shared.flags.placement import PlacementFlags
from powerinfer_cli.commands.shared.terminal import Terminal
from powerinfer_cli.errors import UsageError

__all__ = ["app"]


def run(ranks: RankFlags, served: ServedFlags) -> None:
    """Run a model in layer ranges, one a machine: rank 0 serves as `powerinfer server` does."""
    model, slots = served.model, served.slots
    if slots.sleep_idle_seconds is not None and slots.sleep_idle_seconds >= 0:
        raise UsageError("--sleep-idle-seconds is not for ranks: all of them would have to be started anew")
    wishes = rank_wishes(ranks, served.placement, Terminal(color=False, quiet=served.door.log_disable).note)
    drafting = served.drafts.options(model.hf_token).wanted
    if wishes.meeting.seat.rank:
        options = with_slots(with_machine(model.options(), served.machine), slots)
        run_rank(model, served.answers.hf_file, served.predictor, options, wishes, drafting=drafting)
        return
    first = RankZero(wishes, drafting=drafting)
    try:
        serve_texts(replace(served, placement=PlacementFlags()), RouterFlags(), executor=first, at_end=first.end)
    finally:
        first.end()


app = command_app("run", run, EPILOG, cls=ServerCommand)
