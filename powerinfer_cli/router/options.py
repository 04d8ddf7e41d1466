"""How to route."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from powerinfer_cli.router.entries import Catalog
from powerinfer_cli.router.room import Room
from powerinfer_cli.serving.options import ServerOptions

__all__ = ["RouterOptions"]


@dataclass(frozen=True)
class RouterOptions:
    """door: where the router listens and to whom, as for a server of one model. catalog: reads anew what there is.

    program: words that start a model's server; a model's own follow. environment: of these processes. autoload: a
    request for a model that is not loaded has it loaded. delay_s: seconds that a request spends at its model before it
    is handed on, for tests of who waits for whom.
    """

    door: ServerOptions
    catalog: Callable[[], Catalog]
    program: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    room: Room = field(default_factory=Room)
    autoload: bool = True
    delay_s: float = 0.0
