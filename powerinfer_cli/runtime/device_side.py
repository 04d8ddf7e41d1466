"""What a model has on one GPU: its layers with their hot neurons, their KV cache, buffers, maybe the head."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass

import torch
from torch import Tensor

from powerinfer_cli.kernels.cache import CacheType
from powerinfer_cli.kernels.device import DeviceCache, make_cache, ops_for
from powerinfer_cli.kernels.device.cache import read_rows, write_rows
from powerinfer_cli.kernels.reference import rotate
from powerinfer_cli.placement import MAIN_MEMORY, LayerPlacement
from powerinfer_cli.runtime.backend import Parts
from powerinfer_cli.runtime.cold_stream import ColdStream, neuron_bytes, streamable
from powerinfer_cli.runtime.device_bytes import allocated
from powerinfer_cli.runtime.device_flow import DeviceFlow, RopeTables, rope_tables
from powerinfer_cli.runtime.device_weights import DeviceLayer, DeviceLinear, DeviceNorm, Uploader
from powerinfer_cli.runtime.link import Link
from powerinfer_cli.runtime.rope import frequencies_of
from powerinfer_cli.runtime.threshold import effective_threshold

__all__ = ["DeviceSide"]

SHIFTED = 256  # positions at a time: they move down, so that none is overwritten before it has moved


class DeviceSide:
    """`layers`: by their number in the model. `head`: whether the last norm and the head are here."""

    def __init__(
        self,
        parts: Parts,
        device: torch.device,
        placed: Mapping[int, LayerPlacement],
        *,
        head: bool,
        n_tokens: int,
        uploader: Uploader,
    ) -> None:
        config, options = parts.config, parts.options
        self.config, self.device, self.link = config, device, Link(device)
        predictors = config.sparse and not options.all_active
        known = parts.statistics if predictors else None
        self.layers: dict[int, DeviceLayer] = {}
        self.caches: dict[int, DeviceCache] = {}
        types = CacheType(options.type_k), CacheType(options.type_v)
        for index, where in placed.items():
            assert where.device != MAIN_MEMORY
            activity = known.activity(index) if known else None
            self.layers[index] = uploader.layer(parts.weights.layers[index], where, activity, predictors=predictors)
            self.caches[index] = make_cache(config.n_head_kv, parts.n_ctx, config.head_dim, *types, device)
        self.output: tuple[DeviceNorm, DeviceLinear] | None = None
        if head:
            self.output = uploader.norm(parts.weights.output_norm), uploader.linear(parts.weights.output)
        self._frequencies = frequencies_of(config, parts.weights)
        self.tables: RopeTables | None = rope_tables(config, self._frequencies, parts.n_ctx, device)
        ops, threshold = ops_for(device), effective_threshold(config, options)
        self.stream: ColdStream | None = None
        if options.stream_from is not None and streamable(parts.weights):
            self.stream = ColdStream(self.link, neuron_bytes(parts.weights))
        self._counts = torch.zeros(2, dtype=torch.int64, device=device)
        self.one = DeviceFlow(config, ops, 1, threshold, self._counts, device)
        self.many = DeviceFlow(config, ops, n_tokens, threshold, self._counts, device)
        n_logits = config.n_vocab if head else 0
        self.logits = torch.zeros(1, n_logits, device=device)
        self.host_logits = self.link.host(1, n_logits)
        self._host_x = self.link.host(n_tokens, config.n_embd)
        self._host_counts = self.link.host(2, dtype=torch.int64)
        self._host_past = self.link.host(1, dtype=torch.int64)

    def kept_bytes(self) -> int:
        """What weights and KV cache take."""
        parts = [self.output, *self.layers.values(), *self.caches.values()]
        return sum(_nbytes(part) for part in parts)

    def begin(self, flow: DeviceFlow, n_past: int) -> DeviceFlow:
        """Tell the kernels over one or many tokens' buffers how many tokens are in the context. The buffers."""
        self.link.send(flow.n_past, self._host_past, torch.tensor([n_past]))
        return flow

    def take_x(self, flow: DeviceFlow, x: Tensor) -> None:
        """The residual stream of T tokens, [T, n_embd] in main memory or on another device."""
        n = len(x)
        if x.device.type == "cpu":
            self.link.send(flow.x[:n], self._host_x[:n], x)
        else:
            self.link.copy(flow.x[:n], x)

    def give_x(self, flow: DeviceFlow, n_tokens: int) -> Tensor:
        """The residual stream in main memory, [T, n_embd]. Waits."""
        self.link.copy(self._host_x[:n_tokens], flow.x[:n_tokens])
        self.link.mark()
        self.link.wait()
        return self._host_x[:n_tokens]

    def collect(self) -> tuple[int, int]:
        """How many neurons were let through, and how many fired here, since the last time. Waits for all work."""
        self.link.copy(self._host_counts, self._counts)
        self._counts.zero_()
        self.link.mark()
        self.link.wait()
        predicted, fired = self._host_counts.tolist()
        return predicted, fired

    def shift(self, n_past: int, n_keep: int, n_discard: int) -> None:
        """Drop positions [n_keep, n_keep + n_discard) of n_past and move the rest down, its keys turned back."""
        begin = n_keep + n_discard
        if n_discard == 0 or begin == n_past:
            return
        assert self.config.rope is not None  # learned positions cannot be turned back
        assert self._frequencies is not None
        angle = -n_discard * torch.from_numpy(self._frequencies)
        cos, sin = (t.float()[None].to(self.device) for t in (angle.cos(), angle.sin()))
        for cache in self.caches.values():
            for first in range(begin, n_past, SHIFTED):
                last = min(first + SHIFTED, n_past)
                positions = torch.arange(first - n_discard, last - n_discard, device=self.device)
                keys = read_rows(cache.k, cache.k_scales, first, last).transpose(0, 1)
                turned = rotate(keys, cos, sin, self.config.rope.style).transpose(0, 1)
                values = read_rows(cache.v, cache.v_scales, first, last).clone()  # it may be a view
                write_rows(cache.k, cache.k_scales, positions, turned)
                write_rows(cache.v, cache.v_scales, positions, values)


def _nbytes(part: object) -> int:
    """Of all tensors in a piece of weights."""
    if isinstance(part, Tensor):
        return allocated(part.nbytes)
    if isinstance(part, tuple):
        return sum(map(_nbytes, part))
    return sum(_nbytes(getattr(part, f.name)) for f in fields(part)) if is_dataclass(part) else 0
