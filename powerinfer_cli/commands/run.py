"""`powerinfer run`: a model by its name; a chat at a terminal, a text otherwise."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from powerinfer_cli.commands.main.command import main
from powerinfer_cli.commands.main.flags import InteractionFlags, MainCommand, TextFlags
from powerinfer_cli.commands.shared.command_app import command_app
from powerinfer_cli.commands.shared.flags.drafts import DraftFlags
from powerinfer_cli.commands.shared.flags.grammar import GrammarFlags
from powerinfer_cli.commands.shared.flags.machine import MachineFlags
from powerinfer_cli.commands.shared.flags.model import ModelFlags
from powerinfer_cli.commands.shared.flags.placement import PlacementFlags
from powerinfer_cli.commands.shared.flags.predictor import PredictorFlags
from powerinfer_cli.commands.shared.flags.sampling import SamplingFlags
from powerinfer_cli.commands.shared.flags.store import StoreFlags
from powerinfer_cli.commands.shared.model_source import find_model
from powerinfer_cli.errors import UsageError

__all__ = ["app"]

EPILOG = """Examples:
powerinfer run smollm2-135m                              a chat
powerinfer run smollm2-135m "Why is the sky blue?"       an answer, if the model has a chat template
powerinfer run smollm2-135m "Once upon a time" -no-cnv   the text goes on
echo "Summarise: ..." | powerinfer run smollm2-135m

The flags are those of `powerinfer main`; NAME is as `powerinfer list` shows it."""


class RunCommand(MainCommand):
    """`main -m NAME -p PROMPT`, said shorter."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if ctx.resilient_parsing or any(word in ("-h", "--help") for word in args[:2]):
            return super().parse_args(ctx, args)
        words = list(args)
        given: list[str] = []
        while words and len(given) < 2 and not words[0].startswith("-"):
            given.append(words.pop(0))
        if not given:
            raise UsageError("which model? As in `powerinfer run NAME [PROMPT]`; `powerinfer list` shows names")
        prompt = ["-p", given[1]] if len(given) == 2 else []
        return super().parse_args(ctx, ["-m", given[0], *prompt, *words])

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Of NAME, as -m completes it; and of flags."""
        [model] = [param for param in self.params if "-m" in param.opts]
        named = [] if ctx.args or incomplete.startswith("-") else model.shell_complete(ctx, incomplete)
        return [*named, *super().shell_complete(ctx, incomplete)]


def run(
    model: ModelFlags,
    predictor: PredictorFlags,
    machine: MachineFlags,
    placement: PlacementFlags,
    drafts: DraftFlags,
    text: TextFlags,
    interaction: InteractionFlags,
    sampling: SamplingFlags,
    grammar: GrammarFlags,
    store: StoreFlags,
) -> None:
    """Run a model by its name: a chat at a terminal, an answer to a prompt, or a text where it has no chat template."""
    path = find_model(model, folders=store.models_dir)
    asked = text.prompt is not None and interaction.conversation is None and not interaction.taking_turns
    if asked and _answers(path):
        interaction = replace(interaction, single_turn=True)
    model = replace(model, model=path, hf=None)
    main(model, predictor, machine, placement, drafts, text, interaction, sampling, grammar)


def _answers(path: Path) -> bool:
    """Has it a template for chats?"""
    from powerinfer_cli.opening.model_file import open_model_file

    with open_model_file(path) as gguf:
        return "tokenizer.chat_template" in gguf.metadata


app = command_app("run", run, EPILOG, cls=RunCommand)
