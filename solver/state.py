"""What was made how: a small JSON file beside the solver's outputs, by which a later run knows what still fits."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from powerinfer_cli.files import make_folder, replacing

__all__ = ["NAME", "SolverState", "read_state"]

NAME = "solver.json"
VERSION = 1
LARGEST = 4 << 20  # bytes


@dataclass(frozen=True)
class SolverState:
    """`stages`: for each finished or begun stage what it was made with (`made_with`) and what it found."""

    folder: Path
    stages: Mapping[str, Mapping[str, Any]]

    def fits(self, stage: str, made_with: Mapping[str, Any]) -> bool:
        """Was the stage made with just this?"""
        return self.stages.get(stage, {}).get("made_with") == dict(made_with)

    def stale(self, stage: str, made_with: Mapping[str, Any]) -> str | None:
        """In what the stage differs from this, in words; None where there is none, or where it fits."""
        old = self.stages.get(stage, {}).get("made_with")
        if not isinstance(old, dict) or old == dict(made_with):
            return None
        return ", ".join(key for key in made_with if old.get(key) != made_with[key]) or "the way it is made"

    def found(self, stage: str) -> Mapping[str, Any]:
        """What the stage found."""
        found = self.stages.get(stage, {}).get("found")
        return found if isinstance(found, dict) else {}

    def with_stage(self, stage: str, made_with: Mapping[str, Any], found: Mapping[str, Any]) -> "SolverState":
        """The state with a stage recorded, written at once. Raises PowerInferError."""
        stages = {**self.stages, stage: {"made_with": dict(made_with), "found": dict(found)}}
        make_folder(self.folder)
        with replacing(self.folder / NAME) as temporary:
            text = json.dumps({"version": VERSION, "stages": stages}, indent=1)
            temporary.write_text(text + "\n", encoding="utf-8")
        return SolverState(self.folder, stages)


def read_state(folder: Path) -> SolverState:
    """The state in a folder; one that is missing, of another version or damaged counts as empty."""
    path = folder / NAME
    try:
        if path.stat().st_size > LARGEST:
            return SolverState(folder, {})
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return SolverState(folder, {})
    stages = content.get("stages") if isinstance(content, dict) and content.get("version") == VERSION else None
    whole = isinstance(stages, dict) and all(isinstance(stage, dict) for stage in stages.values())
    return SolverState(folder, stages if whole and stages is not None else {})
