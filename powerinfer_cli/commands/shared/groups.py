"""Groups of flags as dataclasses: a command takes a few groups, Typer sees their fields as its options.

A group is a frozen dataclass whose fields are annotated as Typer options are, or are groups. `flat` turns a function of
groups into one of all their fields, so that several commands share their flags and no signature is a page long.
"""

import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args, get_type_hints

from powerinfer_cli.errors import UsageError

__all__ = ["flat"]


def flat(command: Callable[..., None]) -> Callable[..., None]:
    """A function with the fields of all of `command`'s groups as its keyword parameters."""
    groups: dict[str, Any] = get_type_hints(command)
    groups.pop("return", None)
    parameters: dict[str, inspect.Parameter] = {}
    paths: dict[str, tuple[str, ...]] = {}  # what are files and folders, and their flags
    for field, hint in (found for group in groups.values() for found in _options(group)):
        assert field.name not in parameters, f"two groups have a flag {field.name}"
        default = field.default_factory() if callable(field.default_factory) else field.default
        parameters[field.name] = inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint
        )
        if Path in _alternatives(hint):
            paths[field.name] = _flags(field.name, hint.__metadata__[0])

    def run(**values: Any) -> None:
        for name, flags in paths.items():
            if values[name] == Path():
                _refuse_empty(flags, sys.argv[1:])
        command(**{name: _gather(group, values) for name, group in groups.items()})

    run.__name__ = command.__name__
    run.__doc__ = inspect.cleandoc(command.__doc__ or "").partition("\n\nRaises:")[0]  # it is what --help shows
    run.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]  # set as documented
    run.__annotations__ = {name: p.annotation for name, p in parameters.items()}
    return run


def _options(group: Any) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    """Fields of a group and of the groups in it, with their annotations."""
    hints = get_type_hints(group, include_extras=True)
    for field in dataclasses.fields(group):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _options(hints[field.name])
        else:
            yield field, hints[field.name]


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """Of an Annotated type: Path of Path, Path and None of Path | None."""
    return get_args(hint.__origin__) or (hint.__origin__,)


def _flags(name: str, option: Any) -> tuple[str, ...]:
    """A field's. (Typer keeps the first name of an annotated option as its default.)"""
    named = [option.default, *(option.param_decls or ())]
    return tuple(flag for flag in named if isinstance(flag, str)) or (f"--{name.replace('_', '-')}",)


def _refuse_empty(flags: Sequence[str], args: Sequence[str]) -> None:
    """UsageError for `-m ""`, as of a shell's variable that is not set: it would be the current folder."""
    for flag, value in pairwise([*args, "."]):
        if (flag in flags and value == "") or flag in {f"{name}=" for name in flags if name.startswith("--")}:
            raise UsageError(f"{flag.rstrip('=')} is empty: name a file or a folder")


def _gather(group: Any, values: dict[str, Any]) -> Any:
    found = {}
    for name, hint in get_type_hints(group).items():
        found[name] = _gather(hint, values) if dataclasses.is_dataclass(hint) else values[name]
    return group(**found)
