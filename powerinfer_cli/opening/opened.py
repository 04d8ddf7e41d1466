"""From a model's path to one that runs: the one way there, of commands, the server, and Python programs."""

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TypeAlias, Unpack

from powerinfer_cli.drafting import DraftOptions
from powerinfer_cli.gguf_io import GGUFFile
from powerinfer_cli.kernels.cpu.encoding.fitting import CompiledFit
from powerinfer_cli.model import Model, load_model, with_predictors
from powerinfer_cli.opening.bundled import bundled_model
from powerinfer_cli.opening.companions import Companions, find_companions
from powerinfer_cli.opening.drafts import make_engine
from powerinfer_cli.opening.model import OpenModel
from powerinfer_cli.opening.model_file import open_model_file
from powerinfer_cli.opening.planning.placing import PlacingResult, place
from powerinfer_cli.opening.wishes import ModelWishes, PlacementWishes, draft_wishes, logged, with_wishes
from powerinfer_cli.runtime import EngineOptions, LoadEvents
from powerinfer_cli.runtime.executors import Executor
from powerinfer_cli.text import Tokenizer

__all__ = ["ExecutorChoice", "ModelFiles", "open_model", "read_files"]


@dataclass(frozen=True)
class ModelFiles:
    """What there is of a model before anything of it is loaded. model: with its predictors; tokenizer: None where it
    was not asked for.
    """

    gguf: GGUFFile
    model: Model
    tokenizer: Tokenizer | None
    beside: Companions


ExecutorChoice: TypeAlias = Callable[[ModelFiles, EngineOptions], Executor]


def read_files(path: Path, predictor_path: Path | None, events: LoadEvents, *, text: bool = True) -> ModelFiles:
    """Raises PowerInferError: no model, or what lies beside it is not its own."""
    gguf = open_model_file(path)
    model = load_model(gguf)  # first: it says of files of other kinds what they are
    tokenizer = Tokenizer.from_gguf(gguf) if text else None
    beside = find_companions(gguf, model, predictor_path, events.note)
    if beside.predictors is not None:
        model = with_predictors(model, beside.predictors, CompiledFit())
    return ModelFiles(gguf, model, tokenizer, beside)


def open_model(
    path: str | PathLike[str] | None = None,
    options: EngineOptions | None = None,
    placement: PlacementWishes | None = None,
    *,
    predictor_path: str | PathLike[str] | None = None,
    chat_template: str | None = None,
    text: bool = True,
    events: LoadEvents | None = None,
    drafts: DraftOptions | None = None,
    executor: ExecutorChoice | None = None,
    **wishes: Unpack[ModelWishes],
) -> OpenModel:
    """Load a GGUF file, and have it run on this machine's CPU and GPUs. Without a path, the bundled story model.

    Keywords are named as llama-cpp-python names them, and replace what `options` and `placement` say:

    - n_ctx: tokens of context; 0, as without: the model's own, if memory allows
    - n_threads, n_threads_batch: of the CPU, for one token and for a prompt; without: one per physical core
    - n_batch, n_ubatch: tokens of a prompt between two chances to interrupt, and evaluated at a time
    - vram_budget: GiB of GPU memory, a number or one for each GPU; 0: none; without: what is free, less a margin
    - n_gpu_layers: whole layers go to the GPU, the last so many at most; -1: all that fit
    - main_gpu, tensor_split: the first GPU to use; how GPUs share layers, as [3, 1]
    - device: "cpu" uses no GPU (with vram_budget or n_gpu_layers its part is rehearsed); "mps": that of a Mac
    - reset_gpu_index, disable_gpu_index: plan anew; neither read nor write the plan that is kept
    - cpu_moe, n_cpu_moe: experts of all, or of the first so many layers stay in main memory
    - override_tensor: so do tensors of such names, as "exps=cpu"; "...=gpu": not these
    - adaptive: "on": what is hot changes with use while the model runs; "auto": where the route trace says that it pays
    - offload_kqv: False keeps the KV cache of layers on the GPU in main memory, where the CPU attends to it
    - type_k, type_v: of the KV cache, "f32", "f16" or "q8_0"
    - repack: False leaves weights as they are in the mapped file: less memory, slower
    - use_mlock: keep weights from being paged out
    - swa_full: layers with a window cache everything, not only what the window needs
    - all_active: ask no predictor, compute every neuron
    - spec_type: "ngram" proposes what followed the text's last words before, for a step to verify several tokens; texts
      stay the same. model_draft: a small model proposes. draft_max, draft_min, draft_p_min, n_gpu_layers_draft,
      n_ctx_draft, spec_ngram_size_n, spec_ngram_size_m, spec_ngram_min_hits: as the flags of these names
    - reference: plain float32 arithmetic, to compare with

    predictor_path: a directory of trained predictors. chat_template: a built-in's name, a file or a template, instead
    of the model's own. text: False leaves the vocabulary unread, for programs of token ids. events: whom to tell what
    happens; without, the logger "powerinfer_cli". executor: who computes instead of this machine alone.

    Raises:
        PowerInferError: one line: a file that is no model or not to be run, no memory, wishes that cannot be.
    """
    said, rest = draft_wishes(wishes)
    drafts = said or drafts or DraftOptions()
    options, placement = with_wishes(options or EngineOptions(), placement or PlacementWishes(), rest)
    events = events or logged()
    predictors = None if predictor_path is None else Path(predictor_path)
    files = read_files(bundled_model() if path is None else Path(path), predictors, events, text=text)
    gguf, model, beside = files.gguf, files.model, files.beside
    own = None if executor is None else executor(files, options)
    placed = place(gguf, model, options, placement, beside, events) if own is None else PlacingResult()
    engine = make_engine(gguf, model, options, beside.statistics, events, placed.placement, drafts, own)
    for line in files.tokenizer.notes if files.tokenizer else ():
        events.note(f"warning: {line}")
    return OpenModel(gguf, model, engine, files.tokenizer, beside, placed, chat_template)
