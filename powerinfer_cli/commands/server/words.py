"""How `powerinfer server` reads its command line: environment variables first, then what llama-server's scripts say."""

import os
import sys
from collections.abc import Sequence
from typing import Any

import typer

from powerinfer_cli.commands.server.command_line import CommandLine, current, flags_of
from powerinfer_cli.commands.server.environment import environment_words, unknown_variables
from powerinfer_cli.commands.server.harmless import without_harmless
from powerinfer_cli.commands.shared.command_app import Command
from powerinfer_cli.commands.shared.wrong_flag import wrong_flag
from powerinfer_cli.errors import UsageError

__all__ = ["ServerCommand", "with_layers"]

LAYERS = ("-ngl", "--gpu-layers", "--n-gpu-layers")

# Typer's own errors of usage, whichever click it stands on.
_ClickError: type[Any] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


class ServerCommand(Command):
    """Flags, of which those of the command line win over those of the environment."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = flags_of(self.params)
        takes_value = frozenset(
            name for param in self.params if not getattr(param, "is_flag", False) for name in param.opts
        )
        try:
            words, remarks = without_harmless(args, takes_value)
            words = with_layers(words)
            variables = [(name, with_layers(meant)) for name, meant in environment_words(os.environ, words)]
        except ValueError as error:
            raise UsageError(str(error)) from error
        for name, meant in variables:
            self._check(name, meant)
        remarks += [
            f"warning: {name} has no effect: no flag here is called so" for name in unknown_variables(os.environ)
        ]
        for remark in remarks:
            print(remark, file=sys.stderr)
        current.set(CommandLine(tuple(words), known))
        return super().parse_args(ctx, [*(word for _, meant in variables for word in meant), *words])

    def _check(self, name: str, words: list[str]) -> None:
        """Raises UsageError, which names the variable."""
        alone: Any = self.context_class(self, info_name=self.name)
        try:
            super().parse_args(alone, list(words))
        except _ClickError as error:
            raise UsageError(wrong_flag(error, (), name) or f"{name}: {error.format_message()}") from error


def with_layers(words: Sequence[str]) -> list[str]:
    """The same with numbers of layers for llama-server's words: all is as many as fit; auto is what no -ngl means."""
    found = []
    left = iter(words)
    for word in left:
        name, equals, value = word.partition("=")
        if name not in LAYERS:
            found.append(word)
            continue
        value = value if equals else next(left, "")
        if value != "auto":
            found += [name, "-1" if value == "all" else value]
    return found
