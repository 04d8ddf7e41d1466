"""What to expect of common cards before buying one: predicted decoding of Llama-2's shapes, as a table.

    python scripts/bench/expected.py

Nothing here is measured: bandwidths are those of data sheets (solver/placing/profiles), and of the models only the
shapes are real. One neuron in ten is active, as in ProSparse and Bamboo; how unevenly is assumed.
"""

from dataclasses import dataclass

import numpy as np

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.kernels.device import planar_bytes
from powerinfer_cli.placement import ActivationStatistics, LayerBytes, ModelBytes
from solver.placing import PlanSettings, bundled_profiles, load_profile, make_plan

ACTIVE = 0.1
UNEVEN = 0.6  # exponent of the frequencies over the ranks
TOKENS = 20_000
RANK = 1024  # of the predictors
N_CTX = 2048
VOCABULARY = 32_000
SCRATCH, SPARE = 300 << 20, 768 << 20  # bytes: assumed; and of a card, what its desktop and CUDA take
TYPES = (GGMLType.Q4_0, GGMLType.F16)


@dataclass(frozen=True)
class Shape:
    """Of a Llama-2 model."""

    name: str
    n_layer: int
    n_embd: int
    n_ff: int
    n_kv: int

    def sizes(self, kind: GGMLType) -> ModelBytes:
        """With all matrices of one type."""

        def matrix(rows: int, columns: int) -> int:
            return planar_bytes(kind, rows, columns)

        attention = 2 * matrix(self.n_embd, self.n_embd) + 2 * matrix(self.n_kv, self.n_embd) + 8 * self.n_embd
        predictor = matrix(RANK, self.n_embd) + matrix(self.n_ff, RANK)
        layer = LayerBytes(attention, predictor, 4 * self.n_kv * N_CTX, 3 * matrix(1, self.n_embd), self.n_ff)
        return ModelBytes((layer,) * self.n_layer, matrix(VOCABULARY, self.n_embd) + 4 * self.n_embd, SCRATCH)

    def statistics(self) -> ActivationStatistics:
        """As assumed."""
        ranks = np.arange(1, self.n_ff + 1) / self.n_ff
        frequencies = np.minimum(1.0, ACTIVE * (1 - UNEVEN) * ranks**-UNEVEN)
        return ActivationStatistics((np.round(frequencies * TOKENS),) * self.n_layer)


SHAPES = (
    Shape("7B", 32, 4096, 11008, 4096),
    Shape("13B", 40, 5120, 13824, 5120),
    Shape("70B", 80, 8192, 28672, 1024),
)


def cell(shape: Shape, kind: GGMLType, name: str) -> str:
    """Tokens a second with neurons placed, and with whole layers."""
    profile = load_profile(name)
    budget = profile.gpus[0].memory - SPARE
    settings = PlanSettings(kind=kind.name, n_embd=shape.n_embd, time_limit=3.0)
    found = make_plan(shape.sizes(kind), shape.statistics(), [budget], profile, settings)
    layers = (
        found.others["layers"].tokens_per_second if "layers" in found.others else found.prediction.tokens_per_second
    )
    return f"{found.prediction.tokens_per_second:.3g} ({layers:.3g})"


def main() -> None:
    """The table on standard output, in Markdown."""
    columns = [(shape, kind) for shape in SHAPES for kind in TYPES]
    heads = [f"{shape.name} {kind.name}, {shape.sizes(kind).total / 2**30:.0f} GiB" for shape, kind in columns]
    print("| " + " | ".join(["machine", *heads]) + " |")
    print("| " + " | ".join(["---"] * (len(heads) + 1)) + " |")
    for name in bundled_profiles():
        print("| " + " | ".join([name, *(cell(shape, kind, name) for shape, kind in columns)]) + " |", flush=True)


if __name__ == "__main__":
    main()
