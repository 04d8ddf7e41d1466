"""`powerinfer cluster run`: rank 0 writes text as `main` does, the others compute their layers for it."""

from powerinfer_cli.commands.cluster.flags import RankFlags
from powerinfer_cli.commands.cluster.ranks import RankZero, rank_wishes, run_rank
from powerinfer_cli.commands.main.command import write_text
from powerinfer_cli.commands.main.flags import InteractionFlags, MainCommand, TextFlags
from powerinfer_cli.commands.shared.command_app import command_app
from powerinfer_cli.commands.shared.flags.drafts import DraftFlags
from powerinfer_cli.commands.shared.flags.grammar import GrammarFlags
from powerinfer_cli.commands.shared.flags.machine import MachineFlags, with_machine
from powerinfer_cli.commands.shared.flags.model import ModelFlags
from powerinfer_cli.commands.shared.flags.placement import PlacementFlags
from powerinfer_cli.commands.shared.flags.predictor import PredictorFlags
from powerinfer_cli.commands.shared.flags.sampling import SamplingFlags
from powerinfer_cli.commands.shared.terminal import Terminal

__all__ = ["EPILOG", "app"]

EPILOG = """The same command on each machine, which has the same file:
powerinfer cluster run -m big.gguf --hosts 10.0.0.1,10.0.0.2 --cluster-key-file key -p "Hello"
powerinfer cluster run -m big.gguf --hosts 10.0.0.1,10.0.0.2 --cluster-key-file key --port 8080
Two ranks on this machine, each in a terminal of its own:
powerinfer cluster run --world-size 2 --rank 1
powerinfer cluster run --world-size 2 --rank 0 -p "Once upon a time"
torchrun's variables (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) say the same as the flags.
With --port it takes the flags of `powerinfer server`: see `powerinfer cluster run --port 8080 --help`."""


def run(
    ranks: RankFlags,
    model: ModelFlags,
    predictor: PredictorFlags,
    machine: MachineFlags,
    placement: PlacementFlags,
    drafts: DraftFlags,
    text: TextFlags,
    interaction: InteractionFlags,
    sampling: SamplingFlags,
    grammar: GrammarFlags,
) -> None:
    """Run a model in layer ranges, one a machine: rank 0 writes text as `powerinfer main` does."""
    terminal = Terminal(color=text.color.wanted, quiet=text.log_disable)
    wishes = rank_wishes(ranks, placement, terminal.note)
    drafting = drafts.options(model.hf_token).wanted
    if wishes.meeting.seat.rank:
        run_rank(model, None, predictor, with_machine(model.options(), machine), wishes, drafting=drafting)
        return
    first = RankZero(wishes, drafting=drafting)
    try:
        write_text(
            model, predictor, machine, PlacementFlags(), drafts, text, interaction, sampling, grammar, executor=first
        )
    finally:
        first.end()


app = command_app("run", run, EPILOG, cls=MainCommand)
