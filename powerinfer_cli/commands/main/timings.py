"""What a run took: load, prompt, generation, active neurons, memory."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from powerinfer_cli.system.processes import had_children, seconds_since_start

if TYPE_CHECKING:  # imports torch
    from powerinfer_cli.runtime import Drafted

__all__ = ["Timings", "draft_line", "seconds_running"]

_IMPORTED = time.monotonic()
_BEGAN_AS_SHELL = had_children()  # has had children: none of ours yet


@dataclass
class Timings:
    """Seconds and tokens by phase. load_s: from the process' start until the model was ready, by the clock.

    generation_tokens: all that were chosen. The first of a text follows from the prompt's evaluation: the rate is of
    the others, each of which takes one of its own.
    """

    load_s: float = 0.0
    prompt_s: float = 0.0
    prompt_tokens: int = 0
    generation_s: float = 0.0
    generation_tokens: int = 0
    evaluated_s: float = 0.0
    evaluated_tokens: int = 0

    def prompt(self, tokens: int, seconds: float) -> None:
        self.prompt_tokens += tokens
        self.prompt_s += seconds

    def generation(self, seconds: float, *, evaluated: bool) -> None:
        """A token was chosen. evaluated: the one before it was evaluated for it."""
        self.generation_tokens += 1
        self.generation_s += seconds
        if evaluated:
            self.evaluated_tokens += 1
            self.evaluated_s += seconds

    def lines(
        self, mean_active: float | None, mean_predicted: float | None, placed: str | None, peak_bytes: int
    ) -> list[str]:
        """The closing report, a line each. placed: `SparsityStats.placed_line`."""
        report = [
            f"load time:       {self.load_s:8.2f} s",
            f"prompt:          {_line(self.prompt_s, self.prompt_tokens, _rate(self.prompt_tokens, self.prompt_s))}",
            "generation:      "
            + _line(self.generation_s, self.generation_tokens, _rate(self.evaluated_tokens, self.evaluated_s)),
        ]
        if mean_active is not None and mean_predicted is not None:
            report.append(f"active neurons:  {mean_active:8.1%} mean (predicted active: {mean_predicted:.1%})")
        if placed is not None:
            report.append(f"placement:       {placed}")
        return [*report, f"peak memory:     {peak_bytes / 2**20:8.0f} MiB"]


def draft_line(drafted: "Drafted") -> str:
    """How good the drafts were."""
    share = f" ({drafted.accepted / drafted.proposed:.1%})" if drafted.proposed else ""
    return f"drafts:          {drafted.proposed:8d} tokens proposed, {drafted.accepted} accepted{share}"


def _rate(tokens: int, seconds: float) -> float | None:
    return tokens / seconds if tokens and seconds > 0 else None


def _line(seconds: float, tokens: int, rate: float | None) -> str:
    shown = "" if rate is None else f", {rate:8.2f} tokens/s"
    return f"{seconds:8.2f} s, {tokens:5d} tokens{shown}"


def seconds_running() -> float:
    """By the clock, since the process began; where the system does not tell, since this was imported.

    Likewise where the process began as a shell, as behind `exec`: what that did before is no time of ours.
    """
    since_start = None if _BEGAN_AS_SHELL else seconds_since_start()
    return time.monotonic() - _IMPORTED if since_start is None else since_start
