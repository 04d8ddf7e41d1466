"""The flags of `powerinfer server` beside those that several commands share, with llama-server's names."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["AnswerFlags", "ChatFlags", "DoorFlags", "Pooling", "Reasoning", "RouterFlags", "SlotFlags"]


class Pooling(StrEnum):
    """How the vectors of a text's tokens become one."""

    NONE = "none"
    MEAN = "mean"
    CLS = "cls"
    LAST = "last"
    RANK = "rank"


class ReasoningFormat(StrEnum):
    """Where thoughts go."""

    NONE = "none"
    DEEPSEEK = "deepseek"
    LEGACY = "deepseek-legacy"
    AUTO = "auto"


class Reasoning(StrEnum):
    """Whether models think before they answer."""

    ON = "on"
    OFF = "off"
    AUTO = "auto"


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


def _flag(panel: str) -> Any:
    def option(
        *names: str,
        help: str,  # noqa: A002  # Typer's word
        metavar: str | None = None,
        low: int | None = None,
        high: int | None = None,
    ) -> Any:
        return typer.Option(*names, help=help, metavar=metavar, min=low, max=high, rich_help_panel=panel)

    return option


_door, _slot, _answer, _chat, _several = map(_flag, ("Server", "Slots", "Answers", "Chats", "Several models"))


@dataclass(frozen=True)
class DoorFlags:
    """Where the server listens, to whom, and what it tells of itself."""

    host: Annotated[str, _door("--host", metavar="HOST,...", help="Addresses to listen on, or NAME.sock paths.")] = (
        "127.0.0.1"
    )
    port: Annotated[
        int, _door("--port", metavar="N", low=0, high=65535, help="Port to listen on; 0: any free one.")
    ] = 8080
    api_key: Annotated[
        str | None, _door("--api-key", metavar="KEY,...", help="Keys, one of which a client must have.")
    ] = None
    api_key_file: Annotated[
        Path | None, _door("--api-key-file", metavar="FILE", help="The same, one a line; # begins a comment.")
    ] = None
    timeout: Annotated[
        int, _door("-to", "--timeout", metavar="N", low=1, help="Seconds to wait for a client to write, or to read.")
    ] = 3600
    cors_origins: Annotated[
        str,
        _door(
            "--cors-origins",
            metavar="ORIGIN,...",
            help="Whose web pages may use it; localhost: this machine's; *: all.",
        ),
    ] = "localhost"
    metrics: Annotated[bool, _door("--metrics/--no-metrics", help="Answer /metrics, for Prometheus.")] = False
    props: Annotated[bool, _door("--props/--no-props", help="Allow POST /props.")] = False
    ui: Annotated[bool, _door("--ui/--no-ui", "--webui/--no-webui", help="Serve the web page at /.")] = True
    path: Annotated[Path | None, _door("--path", metavar="DIR", help="Serve these files instead of the web page.")] = (
        None
    )
    log_format: Annotated[LogFormat, _door("--log-format", help="json: an object a line.")] = LogFormat.TEXT
    log_disable: Annotated[bool, _door("--log-disable", help="No log, only errors.")] = False
    verbose: Annotated[bool, _door("-v", "--verbose", "--log-verbose", help="Log each thing that happens.")] = False
    verbosity: Annotated[
        int,
        _door("-lv", "--verbosity", "--log-verbosity", metavar="N", low=0, help="1: errors; 3: requests; 5: all."),
    ] = 3


@dataclass(frozen=True)
class RouterFlags:
    """Several models behind one port, instead of -m."""

    models_dir: Annotated[
        Path | None,
        _several("--models-dir", metavar="DIR", help="Serve its models, each in a process of its own, once asked for."),
    ] = None
    models_preset: Annotated[
        Path | None, _several("--models-preset", metavar="FILE", help="An INI file: flags for each model, by its name.")
    ] = None
    models_max: Annotated[
        int, _several("--models-max", metavar="N", low=0, help="Most models that are loaded at a time; 0: any number.")
    ] = 4
    models_autoload: Annotated[
        bool, _several("--models-autoload/--no-models-autoload", help="Load a model when a request names it.")
    ] = True

    @property
    def several(self) -> bool:
        """Is this a router?"""
        return self.models_dir is not None or self.models_preset is not None


@dataclass(frozen=True)
class SlotFlags:
    """How many are served at once, and what is kept of each."""

    parallel: Annotated[
        int, _slot("-np", "--parallel", metavar="N", low=-1, help="Slots; -1: 4, which share the context.")
    ] = -1
    cont_batching: Annotated[
        bool, _slot("-cb/-nocb", "--cont-batching/--no-cont-batching", help="Requests join those that run.")
    ] = True
    kv_unified: Annotated[
        bool | None,
        _slot("-kvu/-no-kvu", "--kv-unified/--no-kv-unified", help="Slots share -c, instead of a part for each."),
    ] = None
    queue: Annotated[
        int, _slot("--queue", metavar="N", low=0, help="Requests that may wait for a slot; more are told 503.")
    ] = 512
    slots: Annotated[bool, _slot("--slots/--no-slots", help="Answer /slots.")] = True
    slot_save_path: Annotated[
        Path | None, _slot("--slot-save-path", metavar="DIR", help="Where slots are saved by POST /slots/N.")
    ] = None
    cache_prompt: Annotated[
        bool, _slot("--cache-prompt/--no-cache-prompt", help="Read only what differs from a slot's last text.")
    ] = True
    cache_ram: Annotated[
        int,
        _slot(
            "-cram",
            "--cache-ram",
            metavar="MiB",
            low=-1,
            high=1 << 30,
            help="Memory for texts that have left their slot; 0: none, -1: no limit.",
        ),
    ] = 8192
    sleep_idle_seconds: Annotated[
        int,
        _slot(
            "--sleep-idle-seconds",
            metavar="N",
            low=-1,
            help="Let go of the weights when idle for so long; -1: never.",
        ),
    ] = -1
    context_shift: Annotated[
        bool,
        _slot(
            "--context-shift/--no-context-shift",
            "--ctx-shift/--no-ctx-shift",
            help="Full context: drop the oldest half, go on.",
        ),
    ] = False


@dataclass(frozen=True)
class AnswerFlags:
    """What answers are like where a request does not say."""

    alias: Annotated[str | None, _answer("-a", "--alias", metavar="NAME,...", help="What clients call the model.")] = (
        None
    )
    strict_model: Annotated[
        bool, _answer("--strict-model", help="Refuse (400) requests that name another model; else any name will do.")
    ] = False
    tags: Annotated[str | None, _answer("--tags", metavar="TAG,...", help="Shown with the model; no more.")] = None
    hf_file: Annotated[
        str | None, _answer("-hff", "--hf-file", metavar="FILE", help="Which file of -hf's repository to serve.")
    ] = None
    n_predict: Annotated[
        int, _answer("-n", "--predict", "--n-predict", metavar="N", low=-1, help="Most tokens to write; -1: no limit.")
    ] = -1
    embedding: Annotated[bool, _answer("--embedding", "--embeddings", help="Answer /embeddings, too.")] = False
    pooling: Annotated[Pooling | None, _answer("--pooling", help="Of embeddings; without: the model's own.")] = None
    rerank: Annotated[
        bool, _answer("--rerank", "--reranking", help="Answer /rerank, with a model that ranks texts.")
    ] = False


@dataclass(frozen=True)
class ChatFlags:
    """How a conversation becomes a prompt, and an answer a message."""

    chat_template: Annotated[
        str | None, _chat("--chat-template", metavar="NAME|JINJA", help="For chats, not the model's own.")
    ] = None
    chat_template_file: Annotated[
        Path | None, _chat("--chat-template-file", metavar="FILE", help="The same, from a file.")
    ] = None
    jinja: Annotated[bool, _chat("--jinja/--no-jinja", help="Without: no tools in chats.")] = True
    reasoning_format: Annotated[
        ReasoningFormat, _chat("--reasoning-format", help="Thoughts apart from the answer, or none: as written.")
    ] = ReasoningFormat.AUTO
    reasoning: Annotated[
        Reasoning, _chat("-rea", "--reasoning", help="Whether models think first, if their template lets them choose.")
    ] = Reasoning.AUTO
    reasoning_budget: Annotated[
        int, _chat("--reasoning-budget", metavar="N", low=-1, high=0, help="0: as --reasoning off; -1: no limit.")
    ] = -1
    chat_template_kwargs: Annotated[
        str | None,
        _chat("--chat-template-kwargs", metavar="JSON", help='For the template, as {"tone": "dry"}.'),
    ] = None
    prefill_assistant: Annotated[
        bool,
        _chat("--prefill-assistant/--no-prefill-assistant", help="An assistant's message at the end is continued."),
    ] = True
