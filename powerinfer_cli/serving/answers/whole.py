"""Answers that are told whole, however large they are."""

from collections.abc import Callable, Sequence
from typing import Any

from starlette.responses import Response

from powerinfer_cli.serving.http.parts import answer_in_parts
from powerinfer_cli.serving.http.replies import Outcome

from .probs import n_chances

__all__ = ["whole_answer"]

_TASKS, _CHANCES = 8, 1024  # what the event loop writes in a few milliseconds


async def whole_answer(body: Callable[[Sequence[Outcome]], Any], outcomes: Sequence[Outcome]) -> Response:
    """What `body` makes of them, as JSON: at once, or part by part where it is much."""
    large = len(outcomes) > _TASKS or sum(n_chances(outcome.chances) for outcome in outcomes) > _CHANCES
    return await answer_in_parts(body(outcomes), large=large)
