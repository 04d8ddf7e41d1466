"""In which type turned down matrices may be written: the narrowest that costs hardly any perplexity, measured."""

from collections.abc import Sequence
from contextlib import closing

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import BLOCK, GGMLType
from powerinfer_cli.kernels.cpu.encoding.fitting import CompiledFit
from powerinfer_cli.model import Model, Predictors, with_predictors
from powerinfer_cli.model.turned import DownType, Width, down_type
from powerinfer_cli.runtime import Engine, EngineOptions, LoadEvents
from powerinfer_cli.runtime.perplexity import Score, ratio
from solver.predictor import score
from solver.profile import CHUNK

__all__ = ["MOST_LOSS", "TURNING", "narrowest_down"]

MOST_LOSS = 0.005  # of perplexity, against what `auto` takes
TURNING = "measuring types of down matrices"
TRIED: tuple[DownType, ...] = (Width.SAME, GGMLType.Q5_K, GGMLType.Q6_K)


def narrowest_down(
    model: Model, predictors: Predictors, options: EngineOptions, held: Sequence[int], events: LoadEvents
) -> DownType:
    """A dense model's, with predictors, over held-out tokens; a note tells of each that was tried.

    Raises PowerInferError: there are no such tokens.
    """
    chunks = [held[start : start + CHUNK] for start in range(0, len(held) - CHUNK // 4, CHUNK)]
    if not chunks:
        raise PowerInferError("--down-type measured: no text is held out to measure by: leave --predictor-path out")
    kind, n_embd = model.layers[0].ffn.neurons.down.weight.type, model.config.n_embd
    auto = down_type(kind, n_embd)
    narrower = {found: one for one in reversed(TRIED) if _bits(found := down_type(kind, n_embd, one)) < _bits(auto)}

    def scored(down: DownType) -> Score:
        sparse = with_predictors(model, predictors, CompiledFit(), down)
        events.progress(TURNING, 0, 1)
        with closing(Engine(sparse, options, None, LoadEvents(progress=events.progress))) as engine:
            return score(engine, chunks, TURNING, events)

    before = scored(Width.AUTO) if narrower else Score()
    for found in sorted(narrower, key=_bits):
        value, error = ratio(scored(narrower[found]), before)
        events.note(f"down matrices in {found.name}: perplexity {value - 1:+.2%} +/- {error:.2%}, beside {auto.name}")
        if value - 1 <= MOST_LOSS:
            return narrower[found]
    return Width.AUTO


def _bits(kind: GGMLType) -> float:
    size, n_bytes = BLOCK[kind]
    return 8 * n_bytes / size
