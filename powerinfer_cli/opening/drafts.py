"""An engine that drafts, where somebody wishes for one."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import assert_never

from powerinfer_cli.drafting import DraftingEngine, DraftOptions, NgramDrafter, SpecType
from powerinfer_cli.drafting.drafter import Drafter
from powerinfer_cli.drafting.guesses import GuessingDrafter
from powerinfer_cli.drafting.model import ModelDrafter
from powerinfer_cli.drafting.pace import worth_trying
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGUFFile
from powerinfer_cli.model import Model, load_model
from powerinfer_cli.model.guesser import read_guesser
from powerinfer_cli.opening.companions import Companions
from powerinfer_cli.opening.model_file import open_model_file
from powerinfer_cli.opening.planning.placing import place
from powerinfer_cli.opening.wishes import PlacementWishes
from powerinfer_cli.placement import ActivationStatistics, Placement
from powerinfer_cli.runtime import Engine, EngineOptions, LoadEvents
from powerinfer_cli.runtime.executors import Executor
from powerinfer_cli.runtime.options import OF_DRAFT
from powerinfer_cli.runtime.traffic import count_traffic
from powerinfer_cli.text.metadata import strings

__all__ = ["differing_vocabularies", "make_engine"]


def make_engine(
    gguf: GGUFFile,
    model: Model,
    options: EngineOptions,
    statistics: ActivationStatistics | None,
    events: LoadEvents,
    placement: Placement | None,
    drafts: DraftOptions,
    executor: Executor | None = None,
) -> Engine:
    """Raises PowerInferError: drafts that this model cannot have."""
    if not drafts.wanted:
        return Engine(model, options, statistics, events, placement, executor=executor)
    small = _small_model(gguf, model, drafts)
    if small is not None and not drafts.n_gpu_layers and not worth_trying(small.cost):
        size = f"the draft model {drafts.model} reads {small.cost:.0%} of the bytes that the model reads for a token"
        events.note(f"warning: {size}: its drafts would cost more than they save, so none are made")
        return Engine(model, options, statistics, events, placement, executor=executor)
    drafter = _drafter(drafts, small, events)
    drafted = options, statistics, events, placement, executor
    return DraftingEngine(model, *drafted, drafter=drafter, drafts=drafts)


@dataclass(frozen=True)
class _SmallModel:
    """name: for messages. cost: of one of its tokens, in passes of a single token through the model."""

    name: str
    gguf: GGUFFile
    model: Model
    cost: float


def _small_model(gguf: GGUFFile, model: Model, drafts: DraftOptions) -> _SmallModel | None:
    """What drafts, where that is a model. Raises PowerInferError: one line."""
    match drafts.kind:
        case SpecType.NONE | SpecType.NGRAM:
            return None
        case SpecType.MTP:
            layer = read_guesser(gguf, model)
            return _SmallModel("the extra heads", gguf, layer, _cost(layer, model))
        case SpecType.MODEL:
            assert drafts.model is not None  # there is one with this kind
            return _open_draft_model(drafts.model, gguf, model)
    assert_never(drafts.kind)


def _cost(small: Model, large: Model) -> float:
    """By the bytes that a token needs."""
    of_small, of_large = (count_traffic(one, "f16", "f16", one.n_groups).per_token(0) for one in (small, large))
    return of_small / max(1.0, of_large)


def _drafter(drafts: DraftOptions, small: _SmallModel | None, events: LoadEvents) -> Callable[[Engine], Drafter]:
    if small is None:
        return lambda engine: NgramDrafter(engine.n_sequences, drafts.size_n, drafts.size_m, drafts.min_hits)

    def progress(what: str, done: int, total: int) -> None:
        events.progress(f"{what}{OF_DRAFT}", done, total)

    told = replace(events, progress=progress)

    def of(engine: Engine) -> Drafter:
        own = engine.options
        n_ctx = drafts.n_ctx * engine.n_sequences if drafts.n_ctx and not own.unified else drafts.n_ctx
        options = replace(own, n_ctx=n_ctx or engine.n_ctx, drafting=True)
        wishes = PlacementWishes(gpu_layers=drafts.n_gpu_layers, device=None if drafts.n_gpu_layers else "cpu")
        try:
            placed = place(small.gguf, small.model, options, wishes, Companions(None, None), told)
            beside = engine if drafts.kind is SpecType.MTP else None
            own_engine = Engine(small.model, options, None, told, placed.placement, beside)
        except PowerInferError as error:
            raise PowerInferError(f"{small.name}: {error}") from error
        if drafts.kind is SpecType.MTP:
            return GuessingDrafter(engine, own_engine, drafts.p_min, small.cost)
        return ModelDrafter(own_engine, drafts.p_min, small.cost)

    return of


def _open_draft_model(path: Path, gguf: GGUFFile, large: Model) -> _SmallModel:
    """Raises PowerInferError: one line that names the file."""
    try:
        small = open_model_file(path)
        model = load_model(small)
    except PowerInferError as error:
        raise PowerInferError(f"the draft model: {error}") from error
    differs = differing_vocabularies(gguf, small)
    if differs is not None:
        raise PowerInferError(f"the draft model {path} cannot draft for {gguf.path}: {differs}")
    return _SmallModel(f"the draft model {path}", small, model, _cost(model, large))


def differing_vocabularies(large: GGUFFile, small: GGUFFile) -> str | None:
    """How the vocabulary of a draft model differs from that of the model, in a word; None: it does not."""
    known, own = (strings(file.metadata, "tokenizer.ggml.tokens") for file in (large, small))
    if not own or not known:
        return "the model has no vocabulary" if own else "it has no vocabulary"
    for key in ("tokenizer.ggml.model", "tokenizer.ggml.pre"):
        a, b = large.metadata.get(key), small.metadata.get(key)
        if a != b and not (key.endswith("pre") and None in (a, b)):
            return f"{key} is {b!r:.40}, not {a!r:.40}"
    if len(known) != len(own):
        return f"it has {len(own)} tokens, not {len(known)}"
    if known == own:
        return None
    i = next(i for i in range(len(own)) if known[i] != own[i])
    return f"token {i} is {own[i]!r:.40}, not {known[i]!r:.40}"
