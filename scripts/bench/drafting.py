"""What drafts bring: texts written with and without them, in turns, in one process.

Usage: python scripts/bench/drafting.py MODEL.gguf [--draft-model SMALL.gguf] [-t THREADS] [-n TOKENS] [--rounds N]

Greedy, with the model's chat template. Tasks: rewriting a code file, summarising a report with quotes, prose. Prints
for each and each drafter how many times as fast decoding is (the median of the rounds' ratios, with the least and the
most), by the clock and in processor time (the better one on a busy machine, with one thread), how many of the proposed
tokens were right, how long the first token takes, and whether the texts are the same.
"""

import argparse
import os
import statistics
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time

import numpy as np

from powerinfer_cli.opening import open_model
from powerinfer_cli.opening.model import OpenModel
from powerinfer_cli.text.template_forms import write_chat

TEXTS = Path(__file__).parent / "texts"
TASKS = {
    "rewriting code": (
        "Repeat this Python file exactly as it is, but rename the class NoteStore to Notebook:\n\n",
        "code.py.txt",
    ),
    "summary with quotes": (
        "Summarise this report. Quote, word by word, whoever is quoted in it:\n\n",
        "report.txt",
    ),
    "prose": ("Write a long story about a lighthouse keeper who finds a letter.", None),
}


@dataclass(frozen=True)
class Run:
    """first, rest: seconds to the first token, and for all others; processor: of these, on processors."""

    ids: list[int]
    first: float
    rest: float
    processor: float
    proposed: int
    accepted: int


def run(model: OpenModel, prompt: list[int], count: int) -> Run:
    """Write `count` tokens, or as many as come before the text ends."""
    engine, ends = model.engine, model.tokenizer.eog_ids
    engine.reset()
    engine.begin_drafts(0)
    ids: list[int] = []
    begin = perf_counter()
    following = engine.prefill(prompt)
    first, processor = perf_counter(), process_time()
    while len(ids) < count:
        ids.append(int(np.argmax(following)))
        if ids[-1] in ends:
            break
        following = engine.decode(ids[-1])
    end, processor, drafted = perf_counter(), process_time() - processor, engine.drafted()
    return Run(ids, first - begin, end - first, processor, drafted.proposed, drafted.accepted)


def prompt_of(model: OpenModel, task: str) -> list[int]:
    asked, name = TASKS[task]
    text = asked if name is None else asked + (TEXTS / name).read_text(encoding="utf-8")
    written = write_chat(model.template, [{"role": "user", "content": text}])
    return list(model.tokenizer.encode(written, add_special=False, parse_special=True))


def report(plain: OpenModel, drafting: OpenModel, name: str, task: str, count: int, rounds: int) -> None:
    """Print a line of the table."""
    prompt = prompt_of(plain, task)
    ratios: list[float] = []
    processors: list[float] = []
    firsts: list[float] = []
    same = True
    for number in range(rounds):
        order = (plain, drafting) if number % 2 == 0 else (drafting, plain)
        found = {id(model): run(model, prompt, count) for model in order}
        without, having = found[id(plain)], found[id(drafting)]
        ratios.append(without.rest / having.rest)
        processors.append(without.processor / having.processor)
        firsts.append(having.first / without.first)
        same = same and without.ids == having.ids
    share = f"{having.accepted} of {having.proposed}"
    ratio, own = (f"{statistics.median(of):.2f} ({min(of):.2f} to {max(of):.2f})" for of in (ratios, processors))
    speed = len(without.ids) / without.rest
    first = f"{statistics.median(firsts):.2f}"
    print(
        f"| {name} | {task} | {len(without.ids)} | {speed:.1f} | {ratio} | {own} | {share} | {first} | {same} |",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Measure what drafts bring.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--draft-model", type=Path)
    parser.add_argument("-t", "--threads", type=int)
    parser.add_argument("-n", "--tokens", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    columns = ["drafter", "task", "tokens", "tokens/s without", "times as fast", "in processor time", "accepted"]
    columns += ["first token, times", "same text"]
    print(f"| {' | '.join(columns)} |\n{'| --- ' * len(columns)}|")
    drafters = {"n-gram": {"spec_type": "ngram"}}
    if asked.draft_model is not None:
        drafters["model"] = {"model_draft": str(asked.draft_model)}
    for name, wishes in drafters.items():
        shared = {"n_ctx": 2048, "n_threads": asked.threads}
        with open_model(asked.model, **shared) as plain, open_model(asked.model, **shared, **wishes) as drafting:
            for model in (plain, drafting):
                run(model, prompt_of(model, "prose"), 8)  # what is compiled or read at first
            for task in TASKS:
                report(plain, drafting, name, task, asked.tokens, asked.rounds)
    print(f"\nload of the machine over the last minute: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
