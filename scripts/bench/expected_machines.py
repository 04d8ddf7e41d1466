#!/usr/bin/env python3
"""What to expect of several machines: predicted decoding of large models in layer ranges, and of replicas in a queue.

    python scripts/bench/expected_machines.py          # both; tables in Markdown on standard output
    python scripts/bench/expected_machines.py --replicas

Nothing here is measured: memory's bandwidths are those of data sheets, links have the bits a second that they are sold
with, and of models only the sizes are real (scripts/synthetic/shapes.py). powerinfer_cli/cluster/PLANNING.md has the
tables with all that is assumed.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from powerinfer_cli.model import load_model  # noqa: E402  # after the path is set
from powerinfer_cli.opening import open_model_file  # noqa: E402  # after the path is set
from powerinfer_cli.placement import main_memory_plan  # noqa: E402  # after the path is set
from powerinfer_cli.runtime import EngineOptions  # noqa: E402  # after the path is set
from powerinfer_cli.runtime.device.bytes import model_bytes  # noqa: E402  # after the path is set
from scripts.synthetic.shapes import SHAPES, write_shape  # noqa: E402  # after the path is set
from solver.machines.network import NO_LINK, Machine, Network, Wire, data_sheet_cpu  # noqa: E402  # after the path is set
from solver.machines.plan import Pipeline, main_bytes, plan_machines  # noqa: E402  # after the path is set
from solver.machines.replicas import Queue, request_rates, simulate_queue  # noqa: E402  # after the path is set
from solver.machines.texts import profile_for, work_for  # noqa: E402  # after the path is set
from solver.placing import DeviceProfile, Work, always_active, load_profile, simulate  # noqa: E402  # after the path is set

MODELS = ("llama-3.3-70b", "gpt-oss-120b", "qwen3-235b-a22b", "glm-4.5-355b-a32b", "llama-3.1-405b")
N_CTX, DEPTH = 8192, 0.5  # tokens of a text; it is half full
TEXTS = (1, 8)
NUMBERS = (1, 2, 4, 8)
GIB, GB = 1 << 30, 1e9
LINKS = {"1 Gbit": Wire(GB / 8, 200e-6), "10 Gbit": Wire(10 * GB / 8, 50e-6), "100 Gbit": Wire(100 * GB / 8, 10e-6)}
CARD = "rtx-3090-ddr5"
CARD_GIB = 23.25  # of 24: what a desktop and CUDA take
REPLICA_MODEL = "qwen3-30b-a3b"
REPLICA_BANDWIDTH = 205 * GB
REPLICAS, LOADS = (1, 2, 3, 10, 30, 100, 300, 1000), (0.5, 0.8, 0.95)
SLOTS, TOKENS, PROMPT_TOKENS, PROMPT_SPEED = 8, 256, 512, 400.0  # tokens a second of a prompt
PLAYED = 40_000


@dataclass(frozen=True)
class Class:
    """Of machines. memory: GiB that a rank may take; bandwidth: bytes a second."""

    name: str
    memory: float
    bandwidth: float
    card: bool = False

    def machine(self, name: str) -> Machine:
        cpu = data_sheet_cpu(self.bandwidth)
        gpus = load_profile(CARD) if self.card else None
        profile = DeviceProfile("data sheet", "", cpu, gpus.gpus if gpus else (), gpus.link if gpus else NO_LINK)
        return Machine(name, name, int(self.memory * GIB), profile, (int(CARD_GIB * GIB),) if self.card else ())


CLASSES = (
    Class("64 GiB, 2 channels of DDR5-5600, 90 GB/s", 58, 89.6 * GB),
    Class("the same and an RTX 3090", 58, 89.6 * GB, card=True),
    Class("128 GiB, 8 channels of DDR4-3200, 205 GB/s", 118, 204.8 * GB),
    Class("128 GiB, 12 channels of DDR5-4800, 461 GB/s", 118, 460.8 * GB),
    Class("the same and an RTX 3090", 118, 460.8 * GB, card=True),
)


def pipeline_of(path: Path, n_texts: int) -> Pipeline:
    """Of a model whose sizes are in a file."""
    model = load_model(open_model_file(path))
    options = EngineOptions(n_ctx=n_texts * N_CTX, n_sequences=n_texts, n_ubatch=64)
    sizes = model_bytes(model, replace(options, n_sequences=1), N_CTX)
    ffn, output = model.layers[-1].ffn, model.head.output
    assert output is not None  # they write text
    kinds = ffn.neurons.up.weight.type.name, output.weight.type.name
    work = Work(sizes, always_active(sizes.layers), kinds[0], model.config.n_embd, DEPTH, kinds[1])
    return Pipeline(work, main_bytes(model, options, options.n_ctx), model.config.n_vocab, options.n_ctx, 4, n_texts)


def tables(pipelines: dict[str, dict[int, Pipeline]]) -> Iterator[str]:
    """A table a class of machines: tokens a second of one text, and of several together."""
    for kind in CLASSES:
        machines = tuple(kind.machine(f"m{i}") for i in range(max(NUMBERS)))
        yield f"\n**{kind.name}**\n"
        yield "| model | machines | " + " | ".join(LINKS) + " |"
        yield "| --- |" + " --- |" * (1 + len(LINKS))
        for name, several in pipelines.items():
            found = {
                link: [
                    plan_machines(one, Network(machines, wire, {}), numbers=NUMBERS, exact=False)
                    for one in several.values()
                ]
                for link, wire in LINKS.items()
            }
            for n in NUMBERS:
                plans = [[speeds.get(n) for speeds in each] for each in found.values()]
                if all(one is None for pair in plans for one in pair):
                    continue
                cells = [
                    " / ".join("-" if one is None else f"{one.tokens_per_second:.3g}" for one in pair) for pair in plans
                ]
                shown = cells[:1] + ["the same"] * (len(LINKS) - 1) if n == 1 else cells
                yield f"| {name} | {n} | " + " | ".join(shown) + " |"


def replica_rates(pipeline: Pipeline) -> tuple[float, ...]:
    """Requests a second of a replica with 1, 2, ... in work."""
    profile = Class("", 118, REPLICA_BANDWIDTH).machine("").profile
    plan, work = main_memory_plan(len(pipeline.work.sizes.layers)), pipeline.work
    steps = [simulate(plan, work_for(work, n), profile_for(profile, work, n)).seconds for n in range(1, SLOTS + 1)]
    return request_rates(steps, TOKENS, PROMPT_TOKENS / PROMPT_SPEED)


def replica_table(rates: tuple[float, ...]) -> Iterator[str]:
    """Seconds of a request by replicas and load: mean, and what 95 of 100 stay below."""
    yield (
        f"\nRequests a second of one replica with 1 to {len(rates)} in work: "
        + ", ".join(f"{x:.3f}" for x in rates)
        + "\n"
    )
    yield "| replicas | " + " | ".join(f"at {load:.0%}: requests/s, mean, 95 of 100, wait" for load in LOADS) + " |"
    yield "| --- |" + " --- |" * len(LOADS)
    for n in REPLICAS:
        cells = []
        for load in LOADS:
            queue = Queue(rates, n, load * n * rates[-1])
            late = np.quantile(simulate_queue(queue, max(PLAYED, 100 * n)), 0.95)
            cells.append(f"{queue.arrivals:.3g}, {queue.seconds:.1f} s, {late:.1f} s, {queue.waiting:.1%}")
        yield f"| {n} | " + " | ".join(cells) + " |"


def main() -> None:
    """Tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", action="store_true", help="only the table of replicas")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:

        def opened(name: str, *numbers: int) -> dict[int, Pipeline]:
            path = Path(folder) / f"{name}.gguf"
            write_shape(path, name)
            return {n: pipeline_of(path, n) for n in numbers}

        assert set(MODELS) < set(SHAPES)
        if not given.replicas:
            for line in tables({name: opened(name, *TEXTS) for name in MODELS}):
                print(line, flush=True)
        for line in replica_table(replica_rates(opened(REPLICA_MODEL, 1)[1])):
            print(line, flush=True)


if __name__ == "__main__":
    main()
