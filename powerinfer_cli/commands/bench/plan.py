"""Which tests `powerinfer bench` runs: lists and ranges of numbers, and every combination of them."""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from powerinfer_cli.errors import UsageError

__all__ = ["Setup", "Workload", "parse_numbers", "parse_pairs", "setups", "workloads"]

LARGEST = 1 << 24  # tokens; no context is longer
MOST = 10_000  # tests of one kind: what asks for more is a slip

_RANGE = re.compile(r"(\d+)(?:-(\d+)(?:([+*])(\d+))?)?")


@dataclass(frozen=True)
class Workload:
    """Evaluate a prompt, then generate; behind `n_depth` tokens of context, whose evaluation is not timed."""

    n_prompt: int
    n_gen: int
    n_depth: int

    @property
    def name(self) -> str:
        """As llama-bench calls it: pp512, tg128, pp512+tg128, tg128 @ d1024."""
        parts = [f"{kind}{n}" for kind, n in (("pp", self.n_prompt), ("tg", self.n_gen)) if n]
        return "+".join(parts) + (f" @ d{self.n_depth}" if self.n_depth else "")

    @property
    def n_ctx(self) -> int:
        return self.n_prompt + self.n_gen + self.n_depth


@dataclass(frozen=True)
class Setup:
    """A model and how it is run."""

    model: Path
    n_batch: int
    n_ubatch: int
    type_k: str
    type_v: str
    n_threads: int


def parse_numbers(flag: str, texts: Sequence[str], *, least: int = 0, most: int = LARGEST) -> list[int]:
    """The numbers of "128,512", "first-last", "first-last+step" and "first-last*factor". Raises UsageError."""
    numbers: list[int] = []
    for item in ",".join(texts).split(","):
        match = _RANGE.fullmatch(item.strip())
        if match is None:
            raise UsageError(f"{flag} {item[:40]!r}: not a number, nor a range as 1-8, 128-512+128 or 64-512*2")
        numbers += _range(flag, match)
    wrong = next((n for n in numbers if not least <= n <= most), None)
    if wrong is not None:
        raise UsageError(f"{flag} must be from {least} to {most}, got {wrong}")
    return numbers


def _range(flag: str, match: re.Match[str]) -> list[int]:
    first, last, sign, step = match.groups()
    item = match[0]
    value, end, by = int(first), int(last or first), int(step or 1)
    if value > end:
        raise UsageError(f"{flag} {item[:40]}: the range has no numbers")
    if by == 0 or (sign == "*" and (by == 1 or value == 0)):
        raise UsageError(f"{flag} {item[:40]}: the range never ends")
    grow: Callable[[int], int] = (lambda n: n * by) if sign == "*" else (lambda n: n + by)
    numbers = []
    while value <= end:
        numbers.append(value)
        value = grow(value)
        if len(numbers) > MOST:
            raise UsageError(f"{flag} {item[:40]}: more than {MOST} numbers")
    return numbers


def parse_pairs(texts: Sequence[str]) -> list[tuple[int, int]]:
    """(prompt, generation) of each -pg PP,TG. Raises UsageError."""
    pairs = []
    for text in texts:
        numbers = text.split(",")
        if len(numbers) != 2 or not all(n.strip().isdecimal() and int(n) <= LARGEST for n in numbers):
            raise UsageError(f"-pg {text[:40]!r}: must be two numbers of tokens, as 512,128")
        pairs.append((int(numbers[0]), int(numbers[1])))
    return pairs


def workloads(
    prompts: Sequence[int], gens: Sequence[int], pairs: Sequence[tuple[int, int]], depths: Sequence[int]
) -> list[Workload]:
    """In llama-bench's order: at each depth all prompts, then all generations, then both together. 0 leaves one out."""
    wanted = [*((n, 0) for n in prompts), *((0, n) for n in gens), *pairs]
    return [Workload(prompt, gen, depth) for depth in depths for prompt, gen in wanted if prompt or gen]


def setups(
    *,
    models: Sequence[Path],
    batches: Sequence[int],
    ubatches: Sequence[int],
    types_k: Sequence[str],
    types_v: Sequence[str],
    threads: Sequence[int],
) -> Iterator[Setup]:
    """Every combination, model by model."""
    for values in itertools.product(models, batches, ubatches, types_k, types_v, threads):
        yield Setup(*values)
