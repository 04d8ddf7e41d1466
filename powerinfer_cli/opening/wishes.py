"""What somebody wishes of where a model lies, and the shares among GPUs that a wish may name."""

from dataclasses import dataclass
from typing import Literal

from powerinfer_cli.errors import UsageError

__all__ = ["PlacementWishes", "parse_shares"]


@dataclass(frozen=True)
class PlacementWishes:
    """As the flags of these names say; None: whatever is there.

    vram_budget: GiB, a number for each GPU. gpu_layers: whole layers, the last so many at most; -1: all that fit.
    tensor_split: how layers are divided among GPUs. reset_gpu_index: replace the plan that is kept;
    disable_gpu_index: neither read nor write one.
    """

    vram_budget: str | None = None
    gpu_layers: int | None = None
    main_gpu: int | None = None
    tensor_split: str | None = None
    device: Literal["cuda", "cpu"] | None = None
    reset_gpu_index: bool = False
    disable_gpu_index: bool = False

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the flags that ask for a GPU, or say something about one."""
        flags = {
            "--device cuda": self.device == "cuda",
            "--vram-budget": self.vram_budget is not None,
            "-ngl": self.gpu_layers is not None,
            "-mg": self.main_gpu is not None,
            "-ts": self.tensor_split is not None,
            "--reset-gpu-index": self.reset_gpu_index,
            "--disable-gpu-index": self.disable_gpu_index,
        }
        return tuple(name for name, given in flags.items() if given)

    @property
    def max_layers(self) -> int | None:
        """As `placement.reserve` takes it."""
        return None if self.gpu_layers in (None, -1) else self.gpu_layers


def parse_shares(text: str) -> tuple[float, ...]:
    """The numbers of -ts, by commas or slashes. Raises UsageError."""
    try:
        shares = tuple(float(part) for part in text.replace("/", ",").split(","))
    except ValueError:
        shares = ()
    if not shares or not all(0 <= share < float("inf") for share in shares) or not sum(shares):
        raise UsageError(f"-ts {text[:40]!r}: must be numbers from 0 on, one for each GPU, not all 0, as 3,1")
    return shares
