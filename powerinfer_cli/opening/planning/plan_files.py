"""Where a model's plan is kept: MODEL.generated.gpuidx beside it, or in the user's cache folder."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.opening.bundled import is_bundled
from powerinfer_cli.placement import (
    Conditions,
    ModelBytes,
    Plan,
    gpuidx_path,
    hot_bytes,
    read_gpuidx,
    stale_reason,
    write_gpuidx,
)

__all__ = ["cache_root", "keep_plan", "kept_plan"]

Note = Callable[[str], None]

SLACK = 0.05  # what is free of a GPU changes from run to run: a plan for a little less will do


def cache_root() -> Path:
    """The user's cache folder; it may not be there yet."""
    root = os.environ.get("POWERINFER_CACHE") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(root)) / "powerinfer"  # noqa: PTH111  # Path's own raises where there is no home


def _places(model: Path, fingerprint: str) -> list[Path]:
    """Beside the model, and in the cache; the package's own folder is nobody's place for plans."""
    own = cache_root() / "plans" / f"{fingerprint}.gpuidx"
    return [own] if is_bundled(model) else [gpuidx_path(model), own]


def kept_plan(
    model: Path, wanted: Conditions, n_groups: Sequence[int], note: Note, *, free: bool
) -> tuple[Plan, Path] | None:
    """The plan that is kept and its file, if it fits what is wanted; why it does not, is noted.

    free: the budgets are what happened to be free. What -ngl, -ts or a device profile have changed of a plan stays in
    force where `wanted` says nothing about it.
    """
    for path in _places(model, wanted.fingerprint):  # the first that fits
        if not path.is_file():
            continue
        try:
            found = read_gpuidx(path, n_groups)
        except PowerInferError as error:
            note(f"planning anew: {error}")
            continue
        made = found.conditions
        reason = stale_reason(made, _as_asked(wanted, made), slack=SLACK if free else 0.0)
        if reason is None:
            return found.plan, path
        note(f"planning anew: {path.name} does not fit: {reason}")
    return None


def _as_asked(wanted: Conditions, made: Conditions | None) -> Conditions:
    if made is None:
        return wanted
    from dataclasses import replace

    return replace(
        wanted,
        max_layers=made.max_layers if wanted.max_layers is None else wanted.max_layers,
        shares=wanted.shares or made.shares,
        profile=made.profile if made.profile.startswith(GIVEN) else wanted.profile,
    )


GIVEN = "given: "
"""Begins the name of a device profile that somebody chose: such a plan is theirs, whatever this machine is."""


def keep_plan(
    model: Path,
    plan: Plan,
    conditions: Conditions,
    sizes: ModelBytes,
    note: Note,
    path: Path | None = None,
    *,
    routed: bool = False,
) -> Path:
    """Write a plan beside its model, or where it can be; the path. `path`: there, and nowhere else. routed: the model
    has experts.

    Raises PowerInferError: it can be written nowhere.
    """
    n_groups = [layer.neurons for layer in sizes.layers]
    places = [path] if path else _places(model, conditions.fingerprint)
    for number, place in enumerate(places):
        try:
            if number or path or is_bundled(model):
                place.parent.mkdir(parents=True, exist_ok=True)
            write_gpuidx(place, plan, conditions, n_groups, hot_bytes(sizes, plan), routed=routed)
        except (PowerInferError, OSError) as error:
            if place == places[-1]:
                raise PowerInferError(str(error)) from error
            note(f"the plan is kept in {places[-1].parent}: {error}")
            continue
        return place
    raise AssertionError("there is always a place")
