"""The flags that say what a text may be, with llama.cpp's names."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from powerinfer_cli.commands.shared.text_file import read_text
from powerinfer_cli.errors import PowerInferError, UsageError
from powerinfer_cli.json_text import read_json
from powerinfer_cli.sampling.forms import Form

__all__ = ["GrammarFlags"]


def _grammar(*names: str, help: str, metavar: str) -> Any:  # noqa: A002  # Typer's word
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel="Sampling")


@dataclass(frozen=True)
class GrammarFlags:
    """What the model may write; to the server, what it may where a request says nothing of it."""

    grammar: Annotated[
        str | None, _grammar("--grammar", metavar="GBNF", help="Write only what this grammar allows.")
    ] = None
    grammar_file: Annotated[Path | None, _grammar("--grammar-file", metavar="FILE", help="The same, from a file.")] = (
        None
    )
    json_schema: Annotated[
        str | None,
        _grammar("-j", "--json-schema", metavar="SCHEMA", help="Write JSON of this schema; {} is any object."),
    ] = None
    json_schema_file: Annotated[
        Path | None, _grammar("-jf", "--json-schema-file", metavar="FILE", help="The same, from a file.")
    ] = None

    def form(self) -> Form:
        """What they ask for.

        Raises:
            UsageError: more than one of them is given.
            PowerInferError: a file cannot be read, or what should be JSON is not.
        """
        given = [flag for flag, value in self._flags().items() if value is not None]
        if len(given) > 1:
            raise UsageError(f"{' and '.join(given)} exclude each other")
        schema = self.json_schema if self.json_schema_file is None else read_text(self.json_schema_file)
        if schema is not None:
            return Form(json_schema=_json(schema, given[0]))
        return Form(self.grammar if self.grammar_file is None else read_text(self.grammar_file))

    def _flags(self) -> dict[str, object]:
        return {
            "--grammar": self.grammar,
            "--grammar-file": self.grammar_file,
            "--json-schema": self.json_schema,
            "--json-schema-file": self.json_schema_file,
        }


def _json(text: str, flag: str) -> Any:
    try:
        schema = read_json(text)
    except (ValueError, RecursionError) as error:
        raise PowerInferError(f"{flag}: not JSON: {error}") from error
    if not isinstance(schema, dict):
        raise PowerInferError(f"{flag}: a schema is a JSON object, got {text[:80]}")
    return schema
