"""Whose the results in a folder are: several models, and several quantisations of one, may lie side by side."""

from enum import Enum
from pathlib import Path

from powerinfer_cli.gguf_io import GGUFFile
from powerinfer_cli.placement import are_kin, kin_numbers, model_fingerprint, solved_folder
from solver.state import SolverState, read_state

__all__ = ["KIN", "Owner", "owner_of", "results_folder", "whose_statistics"]

KIN = "kin"  # the name of what a stage has recorded of the model, besides its fingerprint


class Owner(Enum):
    """As it was recorded: nobody, this very file, another quantisation of the same model, another model."""

    UNKNOWN = "unknown"
    SAME = "same"
    KIN = "kin"
    OTHER = "other"


def owner_of(state: SolverState, stage: str, gguf: GGUFFile) -> Owner:
    """Whose a stage's results are."""
    made_with = state.stages.get(stage, {}).get("made_with")
    if not isinstance(made_with, dict) or "model" not in made_with:
        return Owner.UNKNOWN
    if made_with["model"] == model_fingerprint(gguf):
        return Owner.SAME
    known = state.found(stage).get(KIN)
    try:
        kin = isinstance(known, list) and are_kin(known, kin_numbers(gguf))
    except (TypeError, ValueError):
        kin = False
    return Owner.KIN if kin else Owner.OTHER


def whose_statistics(folder: Path) -> str | None:
    """The fingerprint of the model whose activation statistics lie in a folder, where that is recorded."""
    made_with = read_state(folder).stages.get("activation", {}).get("made_with")
    found = made_with.get("model") if isinstance(made_with, dict) else None
    return found if isinstance(found, str) else None


def results_folder(gguf: GGUFFile) -> Path:
    """Where a model's results go: the folder that it lies in; where that has another file's, one of its own there."""
    own, beside = solved_folder(gguf.path), gguf.path.parent
    if own.is_dir():
        return own
    state = read_state(beside)
    owners = {owner_of(state, stage, gguf) for stage in state.stages}
    return own if owners & {Owner.KIN, Owner.OTHER} and Owner.SAME not in owners else beside
