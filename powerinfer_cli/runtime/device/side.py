"""What a model has on one GPU: its layers with their hot neurons, their KV cache, buffers, maybe the head."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from powerinfer_cli.kernels.cache import PAGE, CacheType
from powerinfer_cli.kernels.device import DeviceCache, Ops, PlanarRows, make_cache, ops_for
from powerinfer_cli.kernels.device.cache import SPARE, put_back, read_rows, stored, write_rows
from powerinfer_cli.kernels.few import FEW, ONE_BY_ONE
from powerinfer_cli.kernels.reference import rotate
from powerinfer_cli.model import Rope
from powerinfer_cli.model.blocks import Head, SharedAttention, cache_owner, recurrent_layers, sources
from powerinfer_cli.placement import MAIN_MEMORY, LayerPlacement
from powerinfer_cli.runtime.backend import Parts
from powerinfer_cli.runtime.batch import Batch
from powerinfer_cli.runtime.context.cache_size import overflowing, reads_whole
from powerinfer_cli.runtime.context.pages import Held, moves_in_parts
from powerinfer_cli.runtime.context.saved import Stored, saved_part
from powerinfer_cli.runtime.device.bytes import allocated
from powerinfer_cli.runtime.device.cold_stream import ColdStream, streamable, streamed_bytes
from powerinfer_cli.runtime.device.flow import DeviceFlow
from powerinfer_cli.runtime.device.link import Link, Recorder
from powerinfer_cli.runtime.device.weights import DeviceLayer, Uploader
from powerinfer_cli.runtime.device.widths import Widths, rope_tables
from powerinfer_cli.runtime.options import EngineOptions
from powerinfer_cli.runtime.threshold import effective_threshold

__all__ = ["DeviceSide"]


class DeviceSide:
    """`layers`: by their number in the model. `kept`: keys and values, by the number of the layer whose they are, also
    of layers elsewhere that are read here; `caches`: what each layer reads of these. `here`: of those that read a cache
    with pages in main memory, how many of it are here. `head`: whether the last norm and the head are here. `streams`:
    whether cold neurons may pass through. `n_few`: tokens, at most, of a step that `recorder` records.
    """

    def __init__(
        self,
        parts: Parts,
        device: torch.device,
        placed: Mapping[int, LayerPlacement],
        *,
        head: bool,
        n_tokens: int,
        uploader: Uploader,
        streams: bool = False,
        adapting: Mapping[int, npt.NDArray[np.float64] | None] | None = None,
        pages: Mapping[int, int] | None = None,
    ) -> None:
        """adapting: of layers that adapt, how often their neurons or experts are used. pages: what `overflowing` finds
        of all layers of the model; None: there are no others.
        """
        model, config, options = parts.model, parts.config, parts.options
        self.config, self.device, self.link, self.pages = config, device, Link(device), parts.pages
        predictors = config.sparse and not options.all_active
        known = parts.statistics if predictors else None
        extent, layers = parts.pages.extent, {index: model.layers[index] for index in placed}
        found = overflowing(model.layers, placed, extent) if pages is None else pages
        self.here = {index: found[index] for index in placed if index in found}
        self._borders = {cache_owner(model.layers, index): n for index, n in self.here.items()}
        self.layers: dict[int, DeviceLayer] = {}
        self.kept: dict[int, DeviceCache] = {}
        self._mixers = {
            i: model.layers[i].attention for i in (*layers, *sorted(sources(layers.values()) - placed.keys()))
        }
        types, recurrent = (CacheType(options.type_k), CacheType(options.type_v)), recurrent_layers(model.layers)
        for place, (index, where) in enumerate(placed.items()):
            assert where.device != MAIN_MEMORY
            activity = known.activity(index) if known else None
            uses = (adapting or {}).get(index)
            layer = uploader.layer(model.layers[index], where, activity, predictors=predictors, uses=uses)
            self.layers[index] = replace(layer, place=place)
        for index, a in self._mixers.items():
            if isinstance(a, SharedAttention):
                continue
            n_cells = self._borders[index] * PAGE + SPARE if index in self._borders else extent.n_cells(a.window)
            n_cells = 0 if reads_whole(a) else n_cells
            states = extent.n_sequences, recurrent[index].state_size if index in recurrent else 0
            self.kept[index] = make_cache(a.n_head_kv, n_cells, a.head_dim, *types, device, states)
        self.caches = {index: self.kept[cache_owner(model.layers, index)] for index in layers}
        self.output: Head[PlanarRows, Tensor] | None = uploader.head(model.head) if head else None
        widths = Widths.of(config.n_embd, layers.values(), [model.layers[index] for index in self.here])
        n_ctx = parts.pages.n_ctx_sequence
        self._frequencies = {rope: torch.from_numpy(rope.frequencies(n_ctx)) for rope in widths.ropes}
        self.tables = rope_tables(widths.ropes, n_ctx, device)
        ops, threshold = ops_for(device), effective_threshold(config, options)
        self.stream: ColdStream | None = None
        if streams and streamable(model):
            self.stream = ColdStream(self.link, streamed_bytes(model))
        self._counts = torch.zeros(FEW, len(placed), 2, dtype=torch.int64, device=device)
        self.recorder = Recorder(device)
        self.n_few = self._recorded_tokens(options, ops)
        make = partial(DeviceFlow, widths, ops)
        self.few = make(self.n_few, parts.pages, threshold, self._counts, device, apart=True)
        self.many = make(n_tokens, parts.pages, threshold, self._counts, device, apart=False)
        n_logits = config.n_vocab if head and config.writes else 0
        rows = max(parts.pages.n_sequences, self.n_few)
        self._logits = torch.zeros(rows, n_logits, device=device)
        self._host_logits = self.link.host(rows, n_logits)
        self._host_x = self.link.host(n_tokens, config.n_embd)
        self._host_inputs = self.link.host(n_tokens * len(widths.inputs) * widths.input_width)
        self._host_counts = self.link.host(FEW, len(placed), 2, dtype=torch.int64)
        numbers = (len(flow.places.numbers) for flow in (self.few, self.many))
        self._host_places = self.link.host(max(numbers), dtype=torch.int64)

    def _recorded_tokens(self, options: EngineOptions, ops: Ops) -> int:
        """But one where kernels do not take a layer's heads: each token would read all pages of its sequence."""
        if self.device.type == "cuda" and any(a.head_dim > ops.widest for a in self._mixers.values()):
            return 1
        return options.few_tokens(self.pages.n_ctx, ONE_BY_ONE)

    def kept_bytes(self) -> int:
        """What weights and KV cache take."""
        parts = [self.output, *self.layers.values(), *self.kept.values()]
        return sum(_nbytes(part) for part in parts)

    def cache_bytes(self) -> int:
        """Of the KV cache, what is on the device: without cells that stand for those elsewhere."""
        kept = {index: pages * PAGE for index, pages in self._borders.items()}
        every = self.kept.items()
        return sum(one.nbytes * kept[i] // (kept[i] + SPARE) if i in kept else one.nbytes for i, one in every)

    def begin(self, flow: DeviceFlow, batch: Batch) -> DeviceFlow:
        """Tell the kernels over few or many tokens' buffers whose the next tokens are. The buffers."""
        numbers = flow.places.of(batch)
        n = len(numbers)
        self.link.send(flow.places.numbers[:n], self._host_places[:n], numbers)
        return flow

    def take_x(self, flow: DeviceFlow, x: Tensor) -> None:
        """The residual stream of T tokens, [T, n_embd] in main memory or on another device."""
        n = len(x)
        if x.device.type == "cpu":
            self.link.send(flow.x[:n], self._host_x[:n], x)
        else:
            self.link.copy(flow.x[:n], x)

    def take_inputs(self, flow: DeviceFlow, inputs: npt.NDArray[np.float32] | None) -> None:
        """What layers get of T tokens beside the stream, [T, n_layer, width], where they do: those that are here."""
        wanted = list(flow.inputs.layers)
        if inputs is not None and wanted:
            there = flow.inputs.of(len(inputs))
            values = torch.from_numpy(inputs)[:, wanted].transpose(0, 1)
            self.link.send(there, self._host_inputs[: there.numel()].view(there.shape), values)

    def give_x(self, flow: DeviceFlow, n_tokens: int) -> Tensor:
        """The residual stream in main memory, [T, n_embd]. Waits."""
        self.link.copy(self._host_x[:n_tokens], flow.x[:n_tokens])
        self.link.mark()
        self.link.wait()
        return self._host_x[:n_tokens]

    def products_of(self, flow: DeviceFlow, rows: Sequence[int]) -> Tensor:
        """The head's products [n, n_vocab] with these rows of the residual stream, in main memory; for a few rows,
        or one of each sequence, nobody waits, and they are there after the next wait.
        """
        assert self.output is not None
        n, first = len(rows), rows[0]
        together = rows[-1] - first + 1 == n
        x = flow.x[first : first + n] if together else torch.cat([flow.x[row : row + 1] for row in rows])
        if n > len(self._logits):
            logits = torch.empty(n, self.config.n_vocab, device=self.device)
            flow.head(self.output, x, logits)
            return logits.cpu()
        flow.head(self.output, x, self._logits[:n])
        self.link.copy(self._host_logits[:n], self._logits[:n])
        return self._host_logits[:n]

    def hidden_of(self, flow: DeviceFlow, rows: slice) -> Tensor:
        """These rows [n, n_embd] of the residual stream behind the last norm, on the device."""
        assert self.output is not None
        return flow.last_norm(self.output.norm, flow.x[rows])

    def collect(self) -> npt.NDArray[np.int64]:
        """How many neurons were let through, and how many fired here, since the last time, by token and layer [FEW,
        layers, 2], as `layers` has them. Waits for all work.
        """
        self.link.copy(self._host_counts, self._counts)
        self._counts.zero_()
        self.link.mark()
        self.link.wait()
        counted: npt.NDArray[np.int64] = self._host_counts.numpy()
        return counted

    def read_cells(self, held: Held) -> dict[str, npt.NDArray[Any]]:
        """As a backend's, for the layers that are here, and of their positions those that are here."""
        found: dict[str, npt.NDArray[Any]] = {}
        for index, cache, cells, here in self._held(held):
            found |= {f"{index}.{name}": part for name, part in stored(cache, cells[here]).items()}
        return found

    def share_of(self, held: Held, saved: Stored) -> dict[str, npt.NDArray[Any]]:
        """What of a saved context goes here. Raises PowerInferError: it is not for such layers and caches."""
        found = {}
        for index, cache, cells, _ in self._held(held):
            for name, part in cache.parts.items():
                key, shape = f"{index}.{name}", (len(cells), part.shape[0], part.shape[2])
                found[key] = saved_part(saved, key, shape, str(part.dtype).removeprefix("torch."))
        return found

    def write_cells(self, held: Held, saved: Stored) -> None:
        """Put back what `share_of` has found, as far as its positions are here."""
        for index, cache, cells, here in self._held(held):
            there = here.cpu().numpy()
            put_back(cache, cells[here], {name: saved[f"{index}.{name}"][there] for name in cache.parts})

    def read_states(self, sequence: int) -> dict[int, npt.NDArray[np.float32]]:
        """As a backend's, for the layers that are here."""
        kept = {index: cache.states for index, cache in self.kept.items() if cache.states is not None}
        return {index: states[sequence].cpu().numpy().copy() for index, states in kept.items()}

    def write_states(self, sequence: int, states: Mapping[int, npt.NDArray[np.float32]]) -> None:
        """As a backend's, for the layers that are here."""
        for index, cache in self.kept.items():
            if cache.states is not None:
                cache.states[sequence].copy_(torch.from_numpy(states[index]))

    def _held(self, held: Held) -> Iterator[tuple[int, DeviceCache, Tensor, Tensor]]:
        """Of the layers that are here: their number, cache, the cells that are held, and which of these are here."""
        for index in self.kept.keys() & self.layers.keys():
            cache = self.kept[index]
            cells = torch.from_numpy(held.of(self._mixers[index].window)).to(self.device)
            yield index, cache, cells, cells < cache.n_pages * PAGE

    def shift(self, sequence: int, n_past: int, n_keep: int, n_discard: int) -> None:
        """Drop a sequence's positions [n_keep, n_keep + n_discard) and move the rest down, its keys turned back; not of
        layers whose cache has pages in main memory.
        """
        if n_discard == 0:
            return
        for index, cache in self.kept.items():
            if index in self._borders:
                continue
            a = self._mixers[index]
            turn, pages = self._turn(a.rope, -n_discard), self.pages.of(a.window)
            for moves in moves_in_parts(pages, sequence, n_past, n_keep, n_discard):
                source, target = (torch.from_numpy(cells).to(self.device) for cells in moves)
                keys = read_rows(cache.k, cache.k_scales, source).transpose(0, 1)
                turned = turn(keys).transpose(0, 1)
                values = read_rows(cache.v, cache.v_scales, source)
                write_rows(cache.k, cache.k_scales, target, turned)
                write_rows(cache.v, cache.v_scales, target, values)

    def _turn(self, rope: Rope | None, by: int) -> Callable[[Tensor], Tensor]:
        """Turns keys [N, H, D] by so many positions."""
        if rope is None:
            return lambda keys: keys
        angle = by * self._frequencies[rope]
        cos, sin = (t.float()[None].to(self.device) for t in (angle.cos(), angle.sin()))
        return partial(rotate, cos=cos, sin=sin, style=rope.style)


def _nbytes(part: object) -> int:
    """Of all tensors in a piece of weights."""
    if isinstance(part, Tensor):
        return allocated(part.nbytes)
    if isinstance(part, tuple):
        return sum(map(_nbytes, part))
    return sum(_nbytes(getattr(part, f.name)) for f in fields(part)) if is_dataclass(part) else 0
