"""From the flags of `powerinfer server` to how it serves."""

import os
import tempfile
from pathlib import Path
from typing import Any

from powerinfer_cli.commands.server.flags import AnswerFlags, ChatFlags, DoorFlags, Reasoning, SlotFlags
from powerinfer_cli.commands.server.input_end import ROUTED
from powerinfer_cli.errors import PowerInferError, UsageError
from powerinfer_cli.files import make_folder
from powerinfer_cli.json_text import read_json
from powerinfer_cli.sampling import SamplerOptions
from powerinfer_cli.serving.http.origins import named_origin
from powerinfer_cli.serving.options import ServerOptions

__all__ = ["listed", "server_options"]

LARGEST_KEY_FILE = 1 << 20


def server_options(
    door: DoorFlags, slots: SlotFlags, answers: AnswerFlags, chats: ChatFlags, sampler: SamplerOptions
) -> ServerOptions:
    """Everything that a flag can say wrongly is found here.

    Raises:
        UsageError: flags that make no sense.
        PowerInferError: files and folders that cannot be used.
    """
    if door.path is not None and not door.path.is_dir():
        raise PowerInferError(f"--path {door.path}: not a folder")
    if slots.slot_save_path is not None:
        _check_writable(slots.slot_save_path)
    routed = answers.alias and os.environ.get(ROUTED)  # then it is a file's name, which may have commas
    names = [answers.alias] if answers.alias and routed else listed(answers.alias)
    return ServerOptions(
        host=door.host,
        port=door.port,
        alias=min(names) if names else None,
        names=tuple(sorted(names)),
        strict_model=answers.strict_model,
        tags=tuple(sorted(listed(answers.tags))),
        sampler=sampler,
        n_predict=answers.n_predict,
        api_keys=_keys(door),
        timeout_s=float(door.timeout),
        metrics=door.metrics,
        slots=slots.slots,
        props=door.props,
        embedding=answers.embedding,
        pooling=answers.pooling,
        rerank=answers.rerank,
        several=bool(os.environ.get(ROUTED)),
        chat_template=_template(chats),
        jinja=chats.jinja,
        reasoning_format=chats.reasoning_format,
        template_variables=_variables(chats),
        prefill_assistant=chats.prefill_assistant,
        verbose=door.verbose,
        ui=door.ui,
        page=door.path,
        slot_save_path=slots.slot_save_path,
        context_shift=slots.context_shift,
        cache_prompt=slots.cache_prompt,
        cache_ram_mib=slots.cache_ram,
        cors_origins=tuple(map(_origin, listed(door.cors_origins))),
        queue=slots.queue,
        sleep_idle_s=_seconds(slots.sleep_idle_seconds),
        log_json=door.log_format == "json",
    )


def _seconds(given: int) -> float | None:
    if given == 0:
        raise UsageError("--sleep-idle-seconds must be at least 1, or -1 for never")
    return None if given < 0 else float(given)


def _template(chats: ChatFlags) -> str | None:
    if chats.chat_template_file is None:
        return chats.chat_template
    if chats.chat_template is not None:
        raise UsageError("--chat-template and --chat-template-file exclude each other")
    path = chats.chat_template_file
    try:
        path.open("rb").close()
    except OSError as error:
        raise PowerInferError(f"--chat-template-file {path}: cannot be read: {error.strerror}") from error
    return str(path.absolute())


def _variables(chats: ChatFlags) -> dict[str, Any]:
    """What templates are told; the name of the switch is the field's own."""
    try:
        found = read_json(chats.chat_template_kwargs or "{}")
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--chat-template-kwargs: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise UsageError("--chat-template-kwargs: must be a JSON object")
    if chats.reasoning is not Reasoning.AUTO or chats.reasoning_budget == 0:
        found["enable_thinking"] = chats.reasoning is Reasoning.ON and chats.reasoning_budget != 0
    return found


def listed(text: str | None) -> list[str]:
    """The parts between commas."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _origin(text: str) -> str:
    try:
        return named_origin(text)
    except ValueError as error:
        raise UsageError(f"--cors-origins {text[:200]}: must be http://NAME[:PORT], localhost or *") from error


def _keys(door: DoorFlags) -> frozenset[str]:
    keys = set(listed(door.api_key))
    if door.api_key is not None and not keys:
        raise UsageError("--api-key is empty: anybody could come in")
    if door.api_key_file is not None:
        keys |= _keys_of(door.api_key_file)
    return frozenset(keys)


def _keys_of(path: Path) -> set[str]:
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_KEY_FILE + 1).decode("utf-8")
    except OSError as error:
        raise PowerInferError(f"--api-key-file {path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PowerInferError(f"--api-key-file {path}: not UTF-8 at byte {error.start}") from error
    if len(text) > LARGEST_KEY_FILE:
        raise PowerInferError(f"--api-key-file {path}: larger than {LARGEST_KEY_FILE} bytes")
    lines = (line.strip() for line in text.splitlines())
    keys = {line for line in lines if line and not line.startswith("#")}
    if not keys:
        raise PowerInferError(f"--api-key-file {path}: holds no key: anybody could come in")
    return keys


def _check_writable(folder: Path) -> None:
    make_folder(folder)
    try:
        number, name = tempfile.mkstemp(dir=folder)
        os.close(number)
        Path(name).unlink()
    except OSError as error:
        raise PowerInferError(f"--slot-save-path {folder}: cannot be written to: {error.strerror}") from error
