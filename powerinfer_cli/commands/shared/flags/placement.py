"""What of a model goes to GPUs, for every command that runs one."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:  # loads the engine
    from powerinfer_cli.opening import PlacementWishes

__all__ = ["AdaptiveFlag", "DeviceFlag", "PlacementFlags", "wishes_of"]


class DeviceFlag(StrEnum):
    """Where a model may run."""

    CUDA = "cuda"
    MPS = "mps"
    CPU = "cpu"


def _gpu(*names: str, help: str, metavar: str | None = None, low: int | None = None) -> Any:  # noqa: A002  # Typer's word
    return typer.Option(*names, help=help, metavar=metavar, min=low, rich_help_panel="GPU")


class AdaptiveFlag(StrEnum):
    """Whether what is hot changes while a model runs."""

    ON = "on"
    OFF = "off"
    AUTO = "auto"


@dataclass(frozen=True)
class PlacementFlags:
    """The names are those of llama.cpp and of the original PowerInfer, and so are the meanings."""

    vram_budget: Annotated[
        str | None,
        _gpu(
            "--vram-budget",
            metavar="GiB,...",
            help="GPU memory to use, a number for each GPU; 0: none. Without: what is free, less a margin.",
        ),
    ] = None
    gpu_layers: Annotated[
        int | None,
        _gpu(
            "-ngl",
            "--gpu-layers",
            "--n-gpu-layers",
            metavar="N",
            low=-1,
            help="Whole layers go to the GPU, the last N at most, as far as the budget goes; -1: all that fit.",
        ),
    ] = None
    main_gpu: Annotated[
        int | None,
        _gpu("-mg", "--main-gpu", metavar="N", low=0, help="First GPU to use; without budgets and -ts, the only one."),
    ] = None
    tensor_split: Annotated[
        str | None,
        _gpu(
            "-ts", "--tensor-split", metavar="N,...", help="How layers are divided among GPUs, as 3,1; else by budget."
        ),
    ] = None
    cpu_moe: Annotated[
        bool, _gpu("-cmoe", "--cpu-moe", help="All experts stay in main memory; the rest goes to the GPU.")
    ] = False
    n_cpu_moe: Annotated[
        int | None,
        _gpu(
            "-ncmoe", "--n-cpu-moe", metavar="N", low=0, help="The experts of the first N layers stay in main memory."
        ),
    ] = None
    override_tensor: Annotated[
        list[str] | None,
        _gpu(
            "-ot",
            "--override-tensor",
            metavar="REGEX=cpu|gpu",
            help="Where tensors of such names go, experts or whole layers; repeatable, the first that fits counts.",
        ),
    ] = None
    adaptive: Annotated[
        AdaptiveFlag,
        _gpu(
            "--adaptive",
            help="Whether experts, or groups of neurons, change places with use while the model runs; auto: as the "
            "recorded route trace says.",
        ),
    ] = AdaptiveFlag.OFF
    kv_offload: Annotated[
        bool,
        _gpu(
            "--kv-offload/--no-kv-offload",
            "-kvo/-nkvo",
            help="Whether the KV cache of layers on the GPU goes there, as far as it fits; no: the CPU attends to it.",
        ),
    ] = True
    device: Annotated[
        DeviceFlag | None,
        _gpu(
            "--device",
            help="cpu: no GPU; with --vram-budget or -ngl, the GPU's part is rehearsed on the CPU, slowly. mps: a "
            "Mac's GPU, by plain torch operations, not yet measured.",
        ),
    ] = None
    reset_gpu_index: Annotated[
        bool, _gpu("--reset-gpu-index", help="Plan anew, and replace the plan that is kept (MODEL.generated.gpuidx).")
    ] = False
    disable_gpu_index: Annotated[
        bool, _gpu("--disable-gpu-index", help="Plan anew, and neither read nor write the plan that is kept.")
    ] = False

    def wishes(self) -> "PlacementWishes":
        """As opening a model takes them. Raises UsageError."""
        return wishes_of(**vars(self))


def wishes_of(
    vram_budget: str | None,
    tensor_split: str | None,
    device: DeviceFlag | None,
    override_tensor: list[str] | None = None,
    adaptive: AdaptiveFlag = AdaptiveFlag.OFF,
    **others: Any,
) -> "PlacementWishes":
    """Of the flags of these names. Raises UsageError: budgets, shares or overrides that are none."""
    from powerinfer_cli.opening.planning.overrides import parse_overrides
    from powerinfer_cli.opening.wishes import PlacementWishes, parse_shares
    from powerinfer_cli.placement import parse_budgets

    parse_overrides(override_tensor or ())
    return PlacementWishes(
        vram_budget=None if vram_budget is None else parse_budgets(vram_budget),
        tensor_split=None if tensor_split is None else parse_shares(tensor_split),
        device=None if device is None else device.value,
        override_tensor=tuple(override_tensor or ()),
        adaptive=adaptive.value,
        **others,
    )
