"""From a model's files and who meets to what computes: at rank 0 an engine's executor, elsewhere a rank that serves."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from powerinfer_cli.cluster.borders import Bounds, LinkType
from powerinfer_cli.cluster.hello import Hello
from powerinfer_cli.cluster.joining import Joined, Meeting, gather, join
from powerinfer_cli.cluster.kept_states import StateShelf
from powerinfer_cli.cluster.messages import Message, Op
from powerinfer_cli.cluster.pipeline import Pipeline, reply_bytes
from powerinfer_cli.cluster.share import RankBackend, Share
from powerinfer_cli.cluster.watching import Members, Watch
from powerinfer_cli.cluster.wires import Lost
from powerinfer_cli.cluster.worker import Worker
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.kernels.few import FEW
from powerinfer_cli.model import Model
from powerinfer_cli.model.blocks import predictor_of
from powerinfer_cli.model.ranges import LayerRange, check_division, divide, shown_ranges
from powerinfer_cli.opening.opened import ModelFiles
from powerinfer_cli.opening.wishes import PlacementWishes
from powerinfer_cli.placement import model_fingerprint, statistics_fingerprint
from powerinfer_cli.runtime import EngineOptions, LoadEvents
from powerinfer_cli.runtime.backend import Backend, Parts
from powerinfer_cli.runtime.context.cache_size import context_size, extent_of, kv_bytes
from powerinfer_cli.runtime.context.pages import PageTable
from powerinfer_cli.runtime.context.states import BESIDE, most_saved
from powerinfer_cli.runtime.stats import SparsityStats
from powerinfer_cli.runtime.threshold import THRESHOLD_VARIABLE, effective_threshold
from powerinfer_cli.runtime.whole_texts import whole_text_options

__all__ = ["PipelineExecutor", "RankWishes", "serve_layers"]

NO_GPU = PlacementWishes(device="cpu")
MOST_GPUS = 64  # of a rank

# What all ranks must have alike, by the flags' names.
ALIKE = {
    "-c": "n_ctx",
    "-b": "n_batch",
    "-ub": "n_ubatch",
    "-ctk": "type_k",
    "-ctv": "type_v",
    "-np": "n_sequences",
    "-kvu": "unified",
    "--swa-full": "swa_full",
    "--reference": "reference",
    "drafting": "drafting",
    "--ctx-checkpoints": "ctx_checkpoints",
}


@dataclass(frozen=True)
class RankWishes:
    """meeting: of the ranks; link: of x's numbers on the way; on_failure: is told, by a thread of its own, in what line
    all has ended once a rank has gone; layers: of each rank, in order, None: as many as make equal bytes;
    placement: of this rank's own layers.
    """

    meeting: Meeting
    link: LinkType
    on_failure: Callable[[str], None]
    layers: tuple[LayerRange, ...] | None = None
    placement: PlacementWishes = NO_GPU

    def ranges(self, model: Model) -> tuple[LayerRange, ...]:
        """Of all ranks. Raises PowerInferError: the model cannot be divided so."""
        if self.layers is None:
            return divide(model, self.meeting.seat.n_ranks)
        check_division(model, self.layers)
        return self.layers


class PipelineExecutor:
    """At rank 0. An engine may be made of it once."""

    def __init__(self, files: ModelFiles, options: EngineOptions, wishes: RankWishes) -> None:
        """Waits for all ranks. options: with `drafting` where drafts are wanted.

        Raises:
            PowerInferError: one does not come, or differs.
        """
        meeting, options = wishes.meeting, _own_options(files.model, options)
        self._ranges = wishes.ranges(files.model)
        self._share = Share.of(files, self._ranges[0])
        meeting.note(
            f"waiting for {meeting.seat.n_ranks - 1} more ranks at {meeting.seat.host} port {meeting.seat.port}"
        )
        joined = gather(meeting, _hello(files, options, self._share, wishes))
        self._n_ctx, self._model, self._note = joined.n_ctx, files.model, meeting.note
        self._placement, self._devices = wishes.placement, tuple[str, ...]()
        pages = PageTable(extent_of(files.model.layers, options, joined.n_ctx))
        self._bounds = _bounds(files.model, options, pages, wishes.link)
        most = reply_bytes(files.model, self._bounds, _cache_bytes(files.model, pages))
        ends = joined.behind, joined.before
        self._members = Members(joined.controls, *ends, most, wishes.on_failure, joined.ready)

    @property
    def n_ctx(self) -> int:
        return self._n_ctx

    @property
    def devices(self) -> tuple[str, ...]:
        """All ranks' GPUs that hold something, once there is a backend."""
        return self._devices

    def backend(self, parts: Parts) -> Backend:
        """Raises PowerInferError: a rank cannot load its layers."""
        try:
            own = self._share.backend(parts, self._placement)
        except BaseException as error:
            self._members.leave(error)
            raise
        n_gpus = [len(own.devices)]
        n_gpus += [self._members.reply(rank, Op.READY).numbers[0] for rank in self._members.ranks]
        if not all(0 <= n <= MOST_GPUS for n in n_gpus):
            raise self._members.spoilt(n_gpus.index(max(n_gpus)), "has more GPUs than there can be")
        self._devices = tuple(f"rank {rank}, GPU {i}" for rank, n in enumerate(n_gpus) for i in range(n))
        for rank, layers in enumerate(self._ranges):
            self._note(f"rank {rank}: {layers}{_of_gpus(n_gpus[rank])}")
        for line in own.placed.lines:
            self._note(f"rank 0: {line}")
        return Pipeline(own.backend, self._members, self._model, self._ranges, parts.pages, self._bounds)

    def end(self) -> None:
        """Have all ranks end."""
        self._members.end()


def serve_layers(files: ModelFiles, options: EngineOptions, wishes: RankWishes, events: LoadEvents) -> None:
    """As another rank than 0, until rank 0 ends it.

    Raises:
        PowerInferError: this rank is refused; or any rank has gone, named.
    """
    meeting, options = wishes.meeting, _own_options(files.model, options)
    share = Share.of(files, wishes.ranges(files.model)[meeting.seat.rank])
    joined = join(meeting, _hello(files, options, share, wishes))
    watch = Watch(joined.controls[0], [joined.before, joined.behind], wishes.on_failure)
    try:
        own, worker = _worker(options, share, joined, watch, wishes, events)
        watch.reply(Message(Op.READY, (len(own.devices),)))
    except BaseException as error:
        for wire in (joined.before, joined.behind):
            wire.close()
        if isinstance(error, Lost):  # rank 0, while this rank was loading
            raise PowerInferError(watch.reason(f"rank 0 {error}")) from error
        watch.leave(error)
        raise
    meeting.note(f"rank {meeting.seat.rank}: {share.layers}, {share.model.nbytes / 2**20:.1f} MiB")
    for line in own.placed.lines:
        meeting.note(f"rank {meeting.seat.rank}: {line}")
    try:
        worker.run()
    finally:
        worker.backend.close()


def _of_gpus(n: int) -> str:
    return f", {n} GPU{'s' if n > 1 else ''}" if n else ""


def _own_options(model: Model, options: EngineOptions) -> EngineOptions:
    """As an engine of this model has them."""
    return options if model.config.causal else whole_text_options(options, model.config)


def _worker(
    options: EngineOptions, share: Share, joined: Joined, watch: Watch, wishes: RankWishes, events: LoadEvents
) -> tuple[RankBackend, Worker]:
    model = share.files.model
    pages, stats = PageTable(extent_of(model.layers, options, joined.n_ctx)), SparsityStats()
    own = share.backend(Parts(model, options, stats, share.beside.statistics, pages, events), wishes.placement)
    bounds = _bounds(model, options, pages, wishes.link)
    most = max(bounds.step_bytes(pages), reply_bytes(model, bounds, _cache_bytes(model, pages)))
    n_states = BESIDE + most_saved(model.layers, pages.n_sequences, options.ctx_checkpoints)
    shelf = StateShelf(n_states * pages.n_sequences)
    ends, last = (joined.before, joined.behind), share.layers.end == len(model.layers)
    return own, Worker(own.backend, share.layers, last, pages, bounds, stats, *ends, watch, most, shelf)


def _bounds(model: Model, options: EngineOptions, pages: PageTable, link: LinkType) -> Bounds:
    most = options.most_tokens(pages.n_ctx)
    few = min(most, FEW if options.drafting else pages.n_sequences, FEW)
    n_vocab = 0 if model.embedding.inputs is None else model.config.n_vocab
    return Bounds(model.config.n_embd, most, few, link, n_vocab)


def _cache_bytes(model: Model, pages: PageTable) -> int:
    """At most, of all that is kept of texts, in float32."""
    return kv_bytes(model.layers, pages.extent, "f32", "f32")


def _hello(files: ModelFiles, options: EngineOptions, share: Share, wishes: RankWishes) -> Hello:
    seat = wishes.meeting.seat
    flags = {flag: str(getattr(options, name)) for flag, name in ALIKE.items()} | {"--link-type": str(wishes.link)}
    if any(predictor_of(layer.ffn.selection) for layer in files.model.layers):
        flags[THRESHOLD_VARIABLE] = str(effective_threshold(files.model.config, options))
    flags["--layers"] = "equal bytes" if wishes.layers is None else shown_ranges(wishes.layers)
    known = files.beside.statistics
    flags["activation statistics"] = "none" if known is None else statistics_fingerprint(known)
    flags["predictors"] = "none" if files.beside.predictors is None else _predictors_fingerprint(files.model)
    packed = share.model.nbytes if options.repack and not options.reference else 0
    n_ctx = context_size(share.model, options, packed) if files.model.config.causal else options.n_ctx
    return Hello(seat.rank, seat.n_ranks, model_fingerprint(files.gguf), flags, n_ctx)


def _predictors_fingerprint(model: Model) -> str:
    """Of those that came from a folder: some numbers of each."""
    digest = hashlib.blake2b(digest_size=8)
    for layer in model.layers:
        predictor = predictor_of(layer.ffn.selection)
        for tensor in () if predictor is None else (predictor.fc1, predictor.fc2):
            digest.update(np.ascontiguousarray(tensor.data[:64]).tobytes())
    return digest.hexdigest()
