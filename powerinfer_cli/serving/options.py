"""How to serve."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from powerinfer_cli.sampling import SamplerOptions
from powerinfer_cli.sampling.forms import Form

__all__ = ["ServerOptions"]


@dataclass(frozen=True)
class ServerOptions:
    """How to serve.

    alias: what /v1/models calls the model, of the names that clients may use; without, the model's path.
    strict_model: requests for any other model are refused. n_predict: the
    default of requests, negative for no limit. form: of what requests get that ask for none. n_batch: -b, from which
    /infill takes how much of a text the model gets to see. api_keys: any of them opens the door; none: no door.
    timeout_s: of reading a request and of writing to a reader who does not read. slots, metrics: whether /slots and
    /metrics answer. pooling: of embeddings, "none", "mean", "cls", "last" or "rank"; None is the model's own. rerank:
    texts are ranked. several: these are a router's for all of its models, each of which does what it can. queue:
    requests that may wait for a slot, beyond which 503 is answered. body_bytes: the largest request, unless a slot's
    text is larger. reasoning_format: "none",
    "deepseek", "deepseek-legacy" or "auto". jinja: whether chats may have tools. template_variables: what chat
    templates are given besides a request's own. prefill_assistant: an assistant's message at the end is continued.
    cache_ram_mib: of memory for texts that have left their slot; 0: none, negative: no limit but memory.
    sleep_idle_s: seconds without a request after which weights are let go of; None: never.
    spec_type: who proposes tokens, as /props tells. verbose: answers of chats tell how they came about. page: a folder
    to serve instead of the page that is built in.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    alias: str | None = None
    names: tuple[str, ...] = ()
    strict_model: bool = False
    tags: tuple[str, ...] = ()
    sampler: SamplerOptions = field(default_factory=SamplerOptions)
    n_predict: int = -1
    form: Form = field(default_factory=Form)
    n_batch: int = 2048
    api_keys: frozenset[str] = frozenset()
    timeout_s: float = 600.0
    metrics: bool = False
    slots: bool = True
    props: bool = False
    embedding: bool = False
    pooling: str | None = None
    rerank: bool = False
    several: bool = False
    chat_template: str | None = None
    jinja: bool = True
    reasoning_format: str = "auto"
    template_variables: Mapping[str, Any] = field(default_factory=dict)
    prefill_assistant: bool = True
    verbose: bool = False
    ui: bool = True
    page: Path | None = None
    slot_save_path: Path | None = None
    context_shift: bool = False
    cache_prompt: bool = True
    cache_ram_mib: int = 8192
    cors_origins: tuple[str, ...] = ("localhost",)
    queue: int = 512
    body_bytes: int = 2 << 20
    log_json: bool = False
    sleep_idle_s: float | None = None
    spec_type: str = "none"
