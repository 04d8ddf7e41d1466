"""The flags of one model that is served, for all commands that serve one."""

from dataclasses import dataclass

from powerinfer_cli.commands.server.flags import AnswerFlags, ChatFlags, DoorFlags, SlotFlags
from powerinfer_cli.commands.shared.flags.drafts import DraftFlags
from powerinfer_cli.commands.shared.flags.grammar import GrammarFlags
from powerinfer_cli.commands.shared.flags.machine import MachineFlags
from powerinfer_cli.commands.shared.flags.model import ModelFlags
from powerinfer_cli.commands.shared.flags.placement import PlacementFlags
from powerinfer_cli.commands.shared.flags.predictor import PredictorFlags
from powerinfer_cli.commands.shared.flags.sampling import SamplingFlags

__all__ = ["ServedFlags"]


@dataclass(frozen=True)
class ServedFlags:
    """A group of groups."""

    model: ModelFlags
    predictor: PredictorFlags
    machine: MachineFlags
    placement: PlacementFlags
    drafts: DraftFlags
    door: DoorFlags
    slots: SlotFlags
    answers: AnswerFlags
    chats: ChatFlags
    sampling: SamplingFlags
    grammar: GrammarFlags
