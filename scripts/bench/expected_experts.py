"""What to expect of common cards before buying one: predicted decoding of known mixtures of experts, as a table.

    python scripts/bench/expected_experts.py [SKEW]

Nothing here is measured: bandwidths are those of data sheets (solver/placing/profiles), and of the models only sizes
are real (scripts/synthetic/shapes.py). How unevenly experts are used is assumed: evenly, or by a power law, the r-th
most used r ** -SKEW times as often; 0.43 unless told otherwise, what the mixture that scripts/train_expert_model.py
makes had on texts of its kind after 1.16 million tokens (0.32 to 0.48 by layer; 0.20 to 0.49 after 1.59 million).
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from powerinfer_cli.model import Model, load_model  # noqa: E402  # after the path is set
from powerinfer_cli.opening import open_model_file  # noqa: E402  # after the path is set
from powerinfer_cli.placement import ActivationStatistics, ModelBytes, RowReading  # noqa: E402  # after the path is set
from powerinfer_cli.runtime import EngineOptions  # noqa: E402  # after the path is set
from powerinfer_cli.runtime.device.bytes import model_bytes  # noqa: E402  # after the path is set
from scripts.synthetic.shapes import SHAPES, write_shape  # noqa: E402  # after the path is set
from solver.placing import PlanSettings, load_profile, make_plan  # noqa: E402  # after the path is set

N_CTX = 8192
SKEW = 0.43
TOKENS = 20_000
SPARE = 768 << 20  # bytes of a card that its desktop and CUDA take
MACHINES = (
    ("rtx-3060-12gb-ddr4", 8),
    ("rtx-3060-12gb-ddr4", None),
    ("rtx-3060-12gb-ddr5", None),
    ("rtx-3090-ddr4", None),
    ("rtx-3090-ddr5", None),
    ("rtx-4090-ddr5", None),
)
"""Profiles, and GiB of memory that a plan may use, where that is not all of the card's."""


def power_law(n_experts: int, n_chosen: int, skew: float) -> np.ndarray:
    """How often each expert is chosen; none of them more than always."""
    found = np.arange(1, n_experts + 1) ** -skew
    for _ in range(50):
        found = np.minimum(found * n_chosen / found.sum(), 1.0)
    return found


def statistics(sizes: ModelBytes, skew: float) -> ActivationStatistics:
    """As assumed; layers without experts are always active."""
    counts = [
        power_law(layer.neurons, layer.chosen, skew) if layer.reading is RowReading.CHOSEN else np.ones(layer.neurons)
        for layer in sizes.layers
    ]
    return ActivationStatistics(tuple(np.round(one * TOKENS) for one in counts), TOKENS)


def cell(model: Model, name: str, gib: int | None, skew: float) -> str:
    """Tokens a second: experts used by a power law, evenly, and with the best `--n-cpu-moe`."""
    sizes = model_bytes(model, EngineOptions(n_ctx=N_CTX), N_CTX)
    profile = load_profile(name)
    budgets = [profile.gpus[0].memory - SPARE if gib is None else gib << 30]
    kind, head = model.layers[-1].ffn.neurons.up.weight.type.name, model.head.weight.type.name
    settings = PlanSettings(kind, model.config.n_embd, head_kind=head, depth=0.5, time_limit=3.0)
    skewed, even = (make_plan(sizes, known, budgets, profile, settings) for known in (statistics(sizes, skew), None))
    ((other, expected),) = ((key, one) for key, one in even.others.items() if key.startswith("--n-cpu-moe"))
    speeds = [one.tokens_per_second for one in (skewed.prediction, even.prediction, expected)]
    return "{:.3g} / {:.3g} / {:.3g} (N = {})".format(*speeds, other.split()[-1])


def main() -> None:
    """The table on standard output, in Markdown."""
    skew = float(sys.argv[1]) if len(sys.argv) > 1 else SKEW
    with tempfile.TemporaryDirectory() as folder:
        models = {}
        for name in SHAPES:
            write_shape(Path(folder) / f"{name}.gguf", name)
            models[name] = load_model(open_model_file(Path(folder) / f"{name}.gguf"))
        heads = [f"{name} {SHAPES[name][1]}, {model.nbytes / 2**30:.0f} GiB" for name, model in models.items()]
        print("| " + " | ".join(["machine", *heads]) + " |")
        print("| " + " | ".join(["---"] * (len(heads) + 1)) + " |")
        for name, gib in MACHINES:
            cells = [cell(model, name, gib, skew) for model in models.values()]
            print("| " + " | ".join([name + (f", {gib} GiB of it" if gib else ""), *cells]) + " |", flush=True)


if __name__ == "__main__":
    main()
