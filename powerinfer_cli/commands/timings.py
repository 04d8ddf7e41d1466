"""What a run took: load, prompt, generation, active neurons, memory."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["Timings"]


@dataclass
class Timings:
    """Seconds and tokens by phase. Generation counts tokens that were evaluated, each with its sampling."""

    load_s: float = 0.0
    prompt_s: float = 0.0
    prompt_tokens: int = 0
    generation_s: float = 0.0
    generation_tokens: int = 0

    @contextmanager
    def prompt(self, tokens: int) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.prompt_s += time.perf_counter() - start
        self.prompt_tokens += tokens

    @contextmanager
    def generation(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.generation_s += time.perf_counter() - start
        self.generation_tokens += 1

    def lines(self, mean_active: float | None, mean_predicted: float | None, peak_bytes: int) -> list[str]:
        """The closing report, a line each."""
        report = [
            f"load time:       {self.load_s:8.2f} s",
            f"prompt:          {_rate(self.prompt_tokens, self.prompt_s)}",
            f"generation:      {_rate(self.generation_tokens, self.generation_s)}",
        ]
        if mean_active is not None and mean_predicted is not None:
            report.append(f"active neurons:  {mean_active:8.1%} mean (predicted active: {mean_predicted:.1%})")
        return [*report, f"peak memory:     {peak_bytes / 2**20:8.0f} MiB"]


def _rate(tokens: int, seconds: float) -> str:
    rate = tokens / seconds if seconds > 0 else 0.0
    return f"{seconds:8.2f} s, {tokens:5d} tokens, {rate:8.2f} tokens/s"
