"""How `powerinfer server` reads its command line: environment variables first, then what llama-server's scripts say."""

import os
import sys
from typing import Any

import typer
import typer.core

from powerinfer_cli.commands.server_environment import environment_words, unknown_variables
from powerinfer_cli.commands.server_harmless import without_harmless
from powerinfer_cli.errors import UsageError

__all__ = ["ServerCommand"]

# Typer's own errors of usage, whichever click it stands on.
_ClickError: type[Any] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


class ServerCommand(typer.core.TyperCommand):
    """Flags, of which those of the command line win over those of the environment."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        takes_value = frozenset(
            name for param in self.params if not getattr(param, "is_flag", False) for name in param.opts
        )
        try:
            words, remarks = without_harmless(args, takes_value)
            variables = environment_words(os.environ, words)
        except ValueError as error:
            raise UsageError(str(error)) from error
        for name, meant in variables:
            self._check(name, meant)
        remarks += [
            f"warning: {name} has no effect: no flag here is called so" for name in unknown_variables(os.environ)
        ]
        for remark in remarks:
            print(remark, file=sys.stderr)
        return super().parse_args(ctx, [*(word for _, meant in variables for word in meant), *words])

    def _check(self, name: str, words: list[str]) -> None:
        """Raises UsageError, which names the variable."""
        alone: Any = self.context_class(self, info_name=self.name)
        try:
            super().parse_args(alone, list(words))
        except _ClickError as error:
            raise UsageError(f"{name}: {error.format_message()}") from error
