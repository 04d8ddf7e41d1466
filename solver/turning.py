"""In which type turned down matrices are written: the narrowest that costs hardly any perplexity, measured."""

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

__all__ = ["ENOUGH", "MOST_LOSS", "TURNING", "narrowest_down", "turning_seconds"]

MOST_LOSS = 0.005  # of perplexity, its error included, against what `auto` takes
TURNING = "measuring types of down matrices"
ENOUGH = CHUNK // 4  # held-out tokens, behind which there is something to measure by
ENCODED = 2e7  # numbers a second and thread
TRIED: tuple[DownType, ...] = (Width.SAME, GGMLType.Q5_K, GGMLType.Q6_K)


def narrowest_down(
    model: Model, predictors: Predictors, options: EngineOptions, held: Sequence[int], events: LoadEvents
) -> DownType:
    """Of a dense model's, from their own width on, with predictors, over held-out tokens; a note tells of each that was
    tried. The work is one piece, of as many trials as there may be.

    Raises PowerInferError: there are no such tokens.
    """
    chunks = [held[start : start + CHUNK] for start in range(0, len(held) - ENOUGH, CHUNK)]
    if not chunks:
        raise PowerInferError("--down-type measured: no text is held out to measure by: leave --predictor-path out")
    kind, n_embd = model.layers[0].ffn.neurons.down.weight.type, model.config.n_embd
    auto = down_type(kind, n_embd)
    own, most = _bits(kind), _bits(auto)
    narrower = {found: one for one in reversed(TRIED) if own <= _bits(found := down_type(kind, n_embd, one)) < most}

    def scored(down: DownType, place: int) -> Score:
        def progress(_: str, done: int, total: int) -> None:
            events.progress(TURNING, place * total + done, (1 + len(narrower)) * total)

        progress(TURNING, 0, 1)
        sparse = with_predictors(model, predictors, CompiledFit(), down)
        with closing(Engine(sparse, options, None, LoadEvents())) as engine:
            return score(engine, chunks, TURNING, LoadEvents(progress=progress))

    before = scored(Width.AUTO, 0) if narrower else Score()
    for place, found in enumerate(sorted(narrower, key=_bits), 1):
        value, error = ratio(scored(narrower[found], place), before)
        events.note(f"down matrices in {found.name}: perplexity {value - 1:+.2%} +/- {error:.2%}, beside {auto.name}")
        if value - 1 + error <= MOST_LOSS:
            events.progress(TURNING, 1, 1)
            return narrower[found]
    return Width.AUTO


def turning_seconds(model: Model, tokens: int, reading: float, threads: int) -> float:
    """Of `narrowest_down`, at so many seconds a token."""
    numbers = sum(layer.ffn.neurons.down.weight.n_elements for layer in model.layers)
    return (1 + len(TRIED)) * (tokens * reading + numbers / (ENCODED * threads))


def _bits(kind: GGMLType) -> float:
    size, n_bytes = BLOCK[kind]
    return 8 * n_bytes / size
