"""`powerinfer cluster run --port`: rank 0 serves as `server` does, the others compute their layers for it."""

from powerinfer_cli.commands.cluster.flags import RankFlags
from powerinfer_cli.commands.cluster.ranks import RankZero, rank_wishes, run_rank
from powerinfer_cli.commands.cluster.run_text import EPILOG
from powerinfer_cli.commands.server.command import serve_texts, with_slots
from powerinfer_cli.commands.server.flags import AnswerFlags, ChatFlags, DoorFlags, RouterFlags, SlotFlags
from powerinfer_cli.commands.server.words import ServerCommand
from powerinfer_cli.commands.shared.command_app import command_app
from powerinfer_cli.commands.shared.flags.drafts import DraftFlags
from powerinfer_cli.commands.shared.flags.grammar import GrammarFlags
from powerinfer_cli.commands.shared.flags.machine import MachineFlags, with_machine
from powerinfer_cli.commands.shared.flags.model import ModelFlags
from powerinfer_cli.commands.shared.flags.placement import PlacementFlags
from powerinfer_cli.commands.shared.flags.predictor import PredictorFlags
from powerinfer_cli.commands.shared.flags.sampling import SamplingFlags
from powerinfer_cli.commands.shared.terminal import Terminal
from powerinfer_cli.errors import UsageError

__all__ = ["app"]


def run(
    ranks: RankFlags,
    model: ModelFlags,
    predictor: PredictorFlags,
    machine: MachineFlags,
    placement: PlacementFlags,
    drafts: DraftFlags,
    door: DoorFlags,
    slots: SlotFlags,
    answers: AnswerFlags,
    chats: ChatFlags,
    sampling: SamplingFlags,
    grammar: GrammarFlags,
) -> None:
    """Run a model in layer ranges, one a machine: rank 0 serves as `powerinfer server` does."""
    if slots.sleep_idle_seconds is not None and slots.sleep_idle_seconds >= 0:
        raise UsageError("--sleep-idle-seconds is not for ranks: all of them would have to be started anew")
    wishes = rank_wishes(ranks, placement, Terminal(color=False, quiet=door.log_disable).note)
    drafting = drafts.options(model.hf_token).wanted
    if wishes.meeting.seat.rank:
        options = with_slots(with_machine(model.options(), machine), slots)
        run_rank(model, answers.hf_file, predictor, options, wishes, drafting=drafting)
        return
    first = RankZero(wishes, drafting=drafting)
    groups = door, RouterFlags(), slots, answers, chats, sampling, grammar
    try:
        serve_texts(model, predictor, machine, PlacementFlags(), drafts, *groups, executor=first, at_end=first.end)
    finally:
        first.end()


app = command_app("run", run, EPILOG, cls=ServerCommand)
