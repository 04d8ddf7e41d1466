"""What a run took: load, prompt, generation, active neurons, memory."""

from dataclasses import dataclass

__all__ = ["Timings"]


@dataclass
class Timings:
    """Seconds and tokens by phase. Generation counts tokens that were evaluated, each with the choice of the next."""

    load_s: float = 0.0
    prompt_s: float = 0.0
    prompt_tokens: int = 0
    generation_s: float = 0.0
    generation_tokens: int = 0

    def prompt(self, tokens: int, seconds: float) -> None:
        self.prompt_tokens += tokens
        self.prompt_s += seconds

    def generation(self, seconds: float) -> None:
        self.generation_tokens += 1
        self.generation_s += seconds

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
