"""From flags to what a replica is: how it loads its model on its share of a machine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import typer.main

from powerinfer_cli.commands.server.command import text_loader
from powerinfer_cli.commands.server.loader import TextLoader
from powerinfer_cli.commands.server.served_flags import ServedFlags
from powerinfer_cli.commands.server.words import ServerCommand
from powerinfer_cli.commands.shared.command_app import command_app
from powerinfer_cli.commands.shared.flags.placement import PlacementFlags
from powerinfer_cli.errors import PowerInferError, UsageError

if TYPE_CHECKING:  # loads the engine
    from powerinfer_cli.serving.service import ServedModel

__all__ = ["ReplicaLoader", "replica_loader", "replica_of_words"]


@dataclass(frozen=True)
class ReplicaLoader:
    """Loads a replica's model where Ray has placed it. gpus: its share; of a part of a GPU it uses as much memory."""

    text: TextLoader
    gpus: float

    def __call__(self, watch: Callable[[str, int, int], None]) -> "tuple[ServedModel, Any]":
        return replace(self.text, placement=self._placement())(watch)

    def _placement(self) -> PlacementFlags:
        placement = self.text.placement
        if not 0 < self.gpus < 1 or placement.vram_budget is not None or placement.device is not None:
            return placement
        import torch

        if not torch.cuda.is_available():
            raise PowerInferError(f"Ray gave this replica {self.gpus:g} of a GPU, and CUDA sees none")
        gib = torch.cuda.get_device_properties(0).total_memory / (1 << 30)
        return replace(placement, vram_budget=f"{self.gpus * gib:.2f}")


def replica_loader(served: ServedFlags) -> TextLoader:
    """The same as of `server`, but for what only one server can do. Raises PowerInferError."""
    slots, door = served.slots, served.door
    if slots.sleep_idle_seconds >= 0:
        raise UsageError("--sleep-idle-seconds is not for replicas: --replicas auto ends those that are idle")
    if slots.slot_save_path is not None:
        raise UsageError("--slot-save-path is not for replicas: a slot is of one of them")
    if "," in door.host or door.host.endswith(".sock"):
        raise UsageError(f"--host {door.host[:80]}: Ray Serve listens on one address")
    return text_loader(served)


def replica_of_words(words: Sequence[str]) -> TextLoader:
    """As a command line says it. Raises PowerInferError, or what Typer says of it."""
    found = []

    def serve(served: ServedFlags) -> None:
        found.append(replica_loader(served))

    command = typer.main.get_command(command_app("serve", serve, "", cls=ServerCommand))
    command.main(list(words), prog_name="powerinfer cluster serve", standalone_mode=False)
    return found[0]
