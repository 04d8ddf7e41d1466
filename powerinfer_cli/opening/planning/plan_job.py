"""Planning for one model, one way to run it and one set of GPUs: what a plan is made of, and for."""

from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from powerinfer_cli.gguf_io import GGMLType, GGUFFile
from powerinfer_cli.model import Model, ModelConfig
from powerinfer_cli.model.blocks import leaves
from powerinfer_cli.opening.companions import Companions
from powerinfer_cli.opening.planning.cache_pages import with_fitting_pages, with_room_for_pages
from powerinfer_cli.opening.planning.gpus import Target
from powerinfer_cli.opening.planning.overrides import NOTHING_KEPT, Kept
from powerinfer_cli.opening.planning.plan_files import GIVEN, cache_root
from powerinfer_cli.opening.wishes import PlacementWishes
from powerinfer_cli.placement import (
    HEAT,
    Conditions,
    ModelBytes,
    Plan,
    Reservation,
    model_fingerprint,
    reserve,
    statistics_fingerprint,
)
from powerinfer_cli.runtime import EngineOptions, LoadEvents
from powerinfer_cli.runtime.context.cache_size import context_size, extent_of
from powerinfer_cli.runtime.device.bytes import model_bytes, staging_bytes
from powerinfer_cli.runtime.device.cold_stream import streamable
from powerinfer_cli.runtime.device.scratch import measure_scratch
from solver.placing import DeviceProfile, PlanResult, PlanSettings, load_profile, make_plan
from solver.placing.cold_reading import cold_reading

__all__ = ["STAND_IN", "PlanJob"]

STAND_IN = "rtx-3060-12gb-ddr4"  # a profile whose GPU stands for one where there is none
MARGIN, MOST_MARGIN = 1 / 32, 256 << 20  # of a GPU's budget, which stays free: the allocator's rounding; bytes


@dataclass(frozen=True)
class PlanJob:
    """n_ctx: tokens of context that the plan is for. streams: whether it is to leave room for cold neurons that pass
    through a GPU. adaptive: off, on or auto: unless off, what changes places needs room.
    kept: what stays in main memory. whole: layers go to GPUs as a whole. kv_offload: whether the KV
    cache goes to GPUs with them.
    """

    path: Path
    model: Model
    fingerprint: str
    options: EngineOptions
    n_ctx: int
    target: Target
    beside: Companions
    max_layers: int | None
    streams: bool = False
    adaptive: str = "off"
    kept: Kept = NOTHING_KEPT
    whole: bool = False
    kv_offload: bool = True

    @classmethod
    def of(
        cls,
        gguf: GGUFFile,
        model: Model,
        options: EngineOptions,
        target: Target,
        beside: Companions,
        max_layers: int | None = None,
        adaptive: str = "off",
    ) -> "PlanJob":
        """model: with the predictors of `beside`. Raises PowerInferError: a context that does not fit."""
        n_ctx = context_size(model, options, 0) if model.config.causal else options.n_ctx
        # Whether it pays is known with the plan; room for it is needed before.
        divisible = any(layer.ffn.divisible for layer in model.layers)
        streams = target.cuda and divisible and streamable(model)
        fingerprint = model_fingerprint(gguf)
        if beside.predictors:  # their ranks are bytes on the GPU
            fingerprint += "".join(f"-{one.fc1.shape[0]:x}" if one else "-0" for one in beside.predictors.layers)
        return cls(gguf.path, model, fingerprint, options, n_ctx, target, beside, max_layers, streams, adaptive)

    def asked(self, wishes: PlacementWishes, kept: Kept = NOTHING_KEPT) -> "PlanJob":
        """With what somebody wishes of the layers, and of the KV cache."""
        return replace(self, kept=kept, whole=wishes.gpu_layers is not None, kv_offload=wishes.kv_offload)

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def divisible(self) -> bool:
        """Whether neurons, or experts, of a layer, of one at least, may lie apart."""
        return any(layer.ffn.divisible for layer in self.model.layers)

    @cached_property
    def sizes(self) -> ModelBytes:
        """Bytes of everything, and how many pages of the KV cache GPUs get."""
        if not self.kv_offload:
            return self._everything.with_pages(0, 0)
        if self.target.budgets is None:
            return self._everything
        parted = self.model.has_experts or (self.divisible and self.beside.statistics is not None)
        whole = self.whole or not parted
        reserve_of = partial(self._reserve, whole=whole)
        cold = None if whole or self.kept.ffns else cold_reading(self._everything, self.beside.statistics)
        return with_fitting_pages(
            self._everything, lambda sizes: reserve_of(self.kept.less(sizes)), whole=whole, cold=cold
        )

    @cached_property
    def _everything(self) -> ModelBytes:
        """With all pages on GPUs; scratch is measured there, but for what is counted: rows that change places."""
        scratch = None
        if self.target.devices:
            first = self.target.devices[0]
            scratch = measure_scratch(self.model, self.options, self.n_ctx, first, streams=self.streams)
        found = model_bytes(self.model, self.options, self.n_ctx, scratch)
        if self.adaptive == "off":
            return found
        return replace(found, scratch=found.scratch + staging_bytes(self.model, HEAT))

    @cached_property
    def budgets(self) -> tuple[int, ...]:
        """Bytes by GPU."""
        if self.target.budgets is not None:
            return self.target.budgets
        return (self.sizes.total,) * len(self.target.devices)

    @property
    def margin(self) -> int:
        """Bytes of each GPU that stay free."""
        return 0 if self.target.rehearsed else min(MOST_MARGIN, int(MARGIN * max(self.budgets, default=0)))

    def reservation(self) -> Reservation:
        """What must lie on the GPUs before any neuron does, and what of it does not fit."""
        return self._reserve(self.sizes)

    def _reserve(self, sizes: ModelBytes, *, whole: bool = False) -> Reservation:
        shares = self.target.shares
        return reserve(sizes, self.budgets, margin=self.margin, max_layers=self.max_layers, shares=shares, whole=whole)

    @property
    def kind(self) -> str:
        """ggml's name of the type of FFNs' weights, or of mixers' where there are no FFNs."""
        return self._type.name

    @property
    def _type(self) -> GGMLType:
        first = next((one for one in self.model.layers if one.ffn.n_groups), None)
        return leaves(self.model.layers[0])[0][0].type if first is None else first.ffn.neurons.up.weight.type

    @property
    def _head_type(self) -> GGMLType:
        """An encoder's weighs nothing, whatever its type."""
        output = self.model.head.output
        return self._type if output is None else output.weight.type

    def conditions(self, profile: str) -> Conditions:
        """What a plan is for. profile: what names the costs."""
        statistics, extent = self.beside.statistics, extent_of(self.model.layers, self.options, self.n_ctx)
        return Conditions(
            fingerprint=self.fingerprint,
            budgets=self.budgets,
            n_ctx=self.n_ctx,
            type_k=self.options.type_k,
            type_v=self.options.type_v,
            scratch=self.sizes.scratch,
            max_layers=self.max_layers,
            shares=self.target.shares,
            statistics=statistics_fingerprint(statistics) if statistics else "",
            profile=profile,
            cache="" if self.kv_offload else "main memory",
            n_cells=sum({extent.n_cells(layer.attention.window) for layer in self.model.layers}),
        )

    def settings(self, solver: str) -> PlanSettings:
        """What a plan is made by, besides sizes, statistics, budgets and costs."""
        return PlanSettings(
            kind=self.kind,
            head_kind=self._head_type.name,
            n_embd=self.config.n_embd,
            fingerprint=self.fingerprint,
            margin=self.margin,
            max_layers=self.max_layers,
            shares=self.target.shares,
            solver=solver,
            together=self.beside.together,
        )

    def make(
        self, profile: DeviceProfile, solver: str = "milp", let_through: tuple[float, ...] | None = None
    ) -> PlanResult:
        """let_through: by layer the share of neurons, where it is known; else what is recorded of the predictors.

        Raises UsageError: budgets or shares that cannot be.
        """
        statistics = self.beside.statistics if self.divisible else None
        settings = replace(self.settings(solver), let_through=let_through or self.beside.let_through)
        result = make_plan(self.sizes, statistics, self.budgets, profile, settings)
        return replace(result, plan=self.filled(result.plan))

    def filled(self, plan: Plan) -> Plan:
        """With as much of the KV cache on GPUs as the plan leaves room for."""
        return with_room_for_pages(self.sizes, plan, self.margin) if self.kv_offload else plan

    def whole_layers(self) -> PlanResult:
        """Of it only the plan counts: no costs are weighed where there is nothing to choose."""
        return self.make(load_profile(STAND_IN), "layers")

    def costs(self, events: LoadEvents, *, anew: bool = False) -> tuple[DeviceProfile, str]:
        """Of this machine, and what names them; of a data sheet where the GPUs are rehearsed only.

        anew: measured now, whatever was measured before: other programs may have been at work then.
        """
        if self.target.rehearsed:
            return load_profile(STAND_IN), f"{GIVEN}{STAND_IN}"
        from solver.placing.kept_costs import this_machine
        from solver.placing.measure import CostShape

        profile = this_machine(
            self.target.devices,
            (self._type, self._head_type),
            CostShape.of(self.model),
            cache_root() / "costs",
            budgets=self.budgets,
            threads=self.options.n_threads,
            cores=self.options.cores,
            anew=anew,
            on_step=lambda what: events.progress(f"measuring {what}", 0, 1),
        )
        return profile, profile.note
