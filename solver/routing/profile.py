"""Profiling a mixture: which experts each token of a text needs, through the fast engine, in batches."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.model import Model
from powerinfer_cli.placement import (
    ActivationStatistics,
    RouteTrace,
    find_routes,
    kin_numbers,
    load_routes,
    save_routes,
    save_statistics,
)
from powerinfer_cli.runtime import LoadEvents
from powerinfer_cli.runtime.recorder import RouteTap
from solver.owner import KIN
from solver.profile import Chunks, made_of
from solver.routing.files import expert_routes, expert_statistics
from solver.stages import ACTIVATION, Place, SolverModel, fitting_statistics, own_statistics, told_of
from solver.state import read_state

__all__ = ["PROFILE", "Profiled", "Routing", "counted", "found_routes", "record_routes", "routes_stage"]

PROFILE = "profile"

Profiled = tuple[ActivationStatistics, RouteTrace]
Chosen = Sequence[npt.NDArray[np.uint8] | npt.NDArray[np.uint16]]  # by layer with experts


class Routing(Protocol):
    """An engine."""

    def record_routes(self, ids: Sequence[int], tap: RouteTap) -> None:
        """Evaluate ids from an empty context; tap(layer, chosen [T, n_chosen]) for each batch."""


def record_routes(engine: Routing, model: Model, chunks: Chunks, events: LoadEvents, what: str) -> RouteTrace:
    """Of a text. Progress is in tokens, told as `what`."""
    total, parts = sum(map(len, chunks)), list[Chosen]()
    for number, chunk in enumerate(chunks):
        parts.append(_routes_of(engine, model.n_experts, chunk))
        events.progress(what, sum(map(len, chunks[: number + 1])), total)
    return _joined(model.n_experts, parts, "")


def routes_stage(model: SolverModel, chunks: Chunks, place: Place, *, force: bool = False) -> Profiled:
    """A mixture's statistics and the trace that they are counted from: those that are there, or came with the model, if
    they fit; else made. What is interrupted goes on there when repeated.

    force: statistics of which nobody knows what text they are of do not do. Raises PowerInferError.
    """
    made_with = {"model": model.fingerprint, "text": made_of(chunks), "active": "chosen experts"}
    kept = found_routes(model, place, made_with, force=force)
    if kept is not None:
        return kept
    experts, key = model.model.n_experts, json.dumps(made_with, sort_keys=True)
    begun, first = _begun(place.work, experts, key, chunks)
    parts: list[Chosen] = [] if begun is None else [begun.chosen]
    if first:
        model.events.note(f"{PROFILE}: going on after chunk {first} of {len(chunks)}")
    done, total = sum(map(len, chunks[:first])), sum(map(len, chunks))
    try:
        for chunk in chunks[first:]:
            parts.append(_routes_of(model.open_engine(), experts, chunk))
            done += len(chunk)
            model.events.progress(PROFILE, done, total)
    except BaseException:  # Ctrl-C too: what is done is kept
        if parts:
            save_routes(place.work, _joined(experts, parts, key))
        raise
    trace = _joined(experts, parts, model.fingerprint)
    _save(model, place, trace, made_with)
    return expert_statistics(place.statistics, model.model), trace


def found_routes(
    model: SolverModel, place: Place, made_with: Mapping[str, Any] | None = None, *, force: bool = False
) -> Profiled | None:
    """Statistics that need not be made, if there are any, with their trace; a note says which, or why not. made_with:
    None where any will do.
    """
    found = fitting_statistics(model, place, made_with, force=force)
    if found is None:
        return None
    folder, owner = found
    try:
        statistics, trace = expert_statistics(folder, model.model), _trace(model, folder)
    except PowerInferError as error:
        model.events.note(f"made anew: {error}")
        return None
    model.events.note(told_of(folder, statistics, owner))
    return statistics, trace


def counted(model: SolverModel, place: Place) -> tuple[ActivationStatistics | None, RouteTrace | None]:
    """What is there to plan by, with a note of what is of no use."""
    note, found = model.events.note, own_statistics(model, place)
    if found is None:
        return None, None
    folder, owner = found
    statistics = expert_statistics(folder, model.model)
    note(told_of(folder, statistics, owner))
    try:
        return statistics, _trace(model, folder)
    except PowerInferError as error:
        note(f"planned by counts alone: {error}")
        return statistics, None


def _trace(model: SolverModel, folder: Path) -> RouteTrace:
    """That lies beside statistics."""
    path = find_routes(folder.parent)
    if path is None:
        raise PowerInferError(f"{folder}: counts of experts without the order that they were chosen in")
    return expert_routes(path, model.model)


def _routes_of(engine: Routing, n_experts: Mapping[int, int], ids: Sequence[int]) -> Chosen:
    found: dict[int, list[npt.NDArray[Any]]] = {layer: [] for layer in n_experts}

    def tap(layer: int, chosen: npt.NDArray[np.signedinteger[Any]]) -> None:
        found[layer].append(chosen.astype(np.uint8 if n_experts[layer] <= 1 << 8 else np.uint16))

    engine.record_routes(ids, tap)
    return [np.concatenate(parts) for parts in found.values()]


def _joined(n_experts: Mapping[int, int], parts: Sequence[Chosen], name: str) -> RouteTrace:
    chosen = tuple(np.concatenate(one) for one in zip(*parts, strict=True))
    return RouteTrace(tuple(n_experts), tuple(n_experts.values()), chosen, name)


def _begun(work: Path, n_experts: Mapping[int, int], key: str, chunks: Chunks) -> tuple[RouteTrace | None, int]:
    """What an interrupted call has left, if it was made of the same, and of how many chunks it is."""
    path = find_routes(work)
    if path is not None:
        with suppress(PowerInferError):
            trace, tokens = load_routes(path, n_experts), 0
            for number, chunk in enumerate(chunks, 1):
                tokens += len(chunk)
                if trace.model == key and trace.tokens == tokens:
                    return trace, number
    return None, 0


def _save(model: SolverModel, place: Place, trace: RouteTrace, made_with: Mapping[str, Any]) -> None:
    """A dense layer's neurons are all needed by every token."""
    counts = dict(zip(trace.layers, trace.counts(), strict=True))
    groups = enumerate(model.model.n_groups)
    every = [counts.get(layer, np.full(n, float(trace.tokens))).astype(np.int64) for layer, n in groups]
    save_statistics(place.statistics, every)
    save_routes(place.folder, trace)
    read_state(place.folder).with_stage(ACTIVATION, made_with, {"tokens": trace.tokens, KIN: kin_numbers(model.gguf)})
    path = find_routes(place.work)
    with suppress(OSError):
        if path is not None:
            path.unlink()
        place.work.rmdir()
