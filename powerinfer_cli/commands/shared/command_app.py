"""What all commands have in common: their page of help, and how they take what is no flag."""

from collections.abc import Callable
from typing import Any

import typer
import typer.core

from powerinfer_cli.commands.shared.groups import flat
from powerinfer_cli.commands.shared.help_page import help_page
from powerinfer_cli.errors import UsageError

__all__ = ["Command", "command_app"]

MOST_SHOWN = 60  # characters of what somebody typed


class Command(typer.core.TyperCommand):
    """Typer's command, with a page that cuts no name, and an error that says where a stray word belongs."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(help_page(self, ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.allow_extra_args = True
        rest = super().parse_args(ctx, args)
        if ctx.args and not ctx.resilient_parsing:
            raise UsageError(self.advice(" ".join(ctx.args)[:MOST_SHOWN], ctx.params))
        return rest

    def advice(self, words: str, params: dict[str, Any]) -> str:
        """What to do with words that belong to no flag."""
        if words.endswith(".gguf") and "model" in params:
            return f"unexpected '{words}': a model follows -m, as -m {words}"
        return f"unexpected '{words}': every value follows its flag; see `powerinfer {self.name} --help`"


def command_app(
    name: str, run: Callable[..., None], epilog: str, *, cls: type[Command] = Command, **settings: Any
) -> typer.Typer:
    """The Typer app of one command. run: a function of groups of flags, as `flat` takes them."""
    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.command(name, cls=cls, epilog=epilog, **settings)(flat(run))
    return app
