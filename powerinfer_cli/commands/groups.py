"""Groups of flags as dataclasses: a command takes a few groups, Typer sees their fields as its options.

A group is a frozen dataclass whose fields are annotated as Typer options are. `flat` turns a function of groups into
one of all their fields, so that several commands share their flags and no signature is a page long.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

__all__ = ["flat"]


def flat(command: Callable[..., None]) -> Callable[..., None]:
    """A function with the fields of all of `command`'s groups as its keyword parameters."""
    groups: dict[str, Any] = get_type_hints(command)
    groups.pop("return", None)
    parameters: dict[str, inspect.Parameter] = {}
    for group in groups.values():
        hints = get_type_hints(group, include_extras=True)
        for field in dataclasses.fields(group):
            assert field.name not in parameters, f"two groups have a flag {field.name}"
            default = field.default_factory() if callable(field.default_factory) else field.default
            parameters[field.name] = inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[field.name]
            )

    def run(**values: Any) -> None:
        command(**{name: _gather(group, values) for name, group in groups.items()})

    run.__name__ = command.__name__
    run.__doc__ = command.__doc__
    run.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]  # set as documented
    run.__annotations__ = {name: p.annotation for name, p in parameters.items()}
    return run


def _gather(group: Any, values: dict[str, Any]) -> Any:
    return group(**{field.name: values[field.name] for field in dataclasses.fields(group)})
