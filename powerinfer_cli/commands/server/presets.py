"""Presets of models: an INI file whose sections are models and whose keys are flags, as llama-server has them."""

import configparser
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from powerinfer_cli.commands.server.command_line import CommandLine, Flag, groups
from powerinfer_cli.commands.server.environment import FALSE, TRUE, VARIABLES
from powerinfer_cli.commands.server.harmless import HARMLESS
from powerinfer_cli.errors import PowerInferError

__all__ = ["ROUTERS", "Preset", "read_presets", "section"]

LARGEST = 1 << 20  # bytes of a file
GLOBAL = "*"
HEAD = "the beginning"  # of the file, before any section; it has the version
# What is the router's own affair: presets and the command line may have it, and models' servers do not get it.
ROUTERS = frozenset(
    {"host", "port", "api-key", "api-key-file", "a", "alias", "tags", "cors-origins", "to", "timeout", "path"}
    | {"ui", "no-ui", "webui", "no-webui"}
    | {"models-dir", "models-preset", "models-max", "models-autoload", "no-models-autoload"}
)
SOURCES = frozenset(("m", "model", "hf", "hfr", "hf-repo", "hff", "hf-file"))
DRAFTS = frozenset(("hfd", "hfrd", "hf-repo-draft", "spec-draft-hf"))
APART = SOURCES | DRAFTS | {"load-on-startup", "stop-timeout", "dedup-cache-models", "alias", "a", "tags"}


@dataclass(frozen=True)
class Preset:
    """Of one model. words: flags, those for all models before its own. model, repo: where it is, if that is said.

    drafts: repositories of draft models. dedup: entries of the hub's cache for its repositories are not listed.
    """

    words: tuple[str, ...] = ()
    model: Path | None = None
    repo: str | None = None
    drafts: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    on_startup: bool = False
    stop_s: float = 10.0
    dedup: bool = False


def read_presets(path: Path, known: Mapping[str, Flag]) -> tuple[Preset, dict[str, Preset]]:
    """(for models without a section, sections by their names).

    Raises:
        PowerInferError: it cannot be read, is no INI file, or has a key that no flag is called by.
    """
    parser = configparser.RawConfigParser(
        delimiters=("=",), comment_prefixes=(";", "#"), empty_lines_in_values=False, default_section="\0"
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # as documented: names keep their case
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise PowerInferError(f"{path}: larger than {LARGEST} bytes: this is no preset")
        if b"\0" in text:
            raise PowerInferError(f"{path}: not an INI file: it has a zero byte")
        parser.read_string(f"[{HEAD}]\n{text.decode('utf-8-sig')}", str(path))
    except OSError as error:
        raise PowerInferError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PowerInferError(f"{path}: not UTF-8 at byte {error.start}") from error
    except configparser.Error as error:
        raise PowerInferError(f"{path}: not an INI file: {' '.join(str(error).split())[:200]}") from error
    for key in parser[HEAD]:
        if key != "version":
            raise PowerInferError(f"{path}: {key} stands before any section: [*] is for all models")
    sections = {name: list(parser[name].items()) for name in parser.sections() if name != HEAD}
    common = sections.pop(GLOBAL, [])
    reader = _Reader(path, known)
    return reader.preset(GLOBAL, common), {name: reader.preset(name, common + own) for name, own in sections.items()}


@dataclass(frozen=True)
class _Reader:
    path: Path
    known: Mapping[str, Flag]

    def preset(self, section: str, items: Iterable[tuple[str, str]]) -> Preset:
        values: dict[str, str] = {}
        words: list[str] = []
        for given, value in items:
            key = given.lstrip("-")
            if key in VARIABLES:
                key = VARIABLES[key].flag.lstrip("-")
            if key in APART:
                values[key] = value
            elif key not in ROUTERS:
                words += self._words(section, given, key, value)
        repo = next((values[key] for key in ("hf-repo", "hfr", "hf") if key in values), None)
        model = values.get("model", values.get("m"))
        file = values.get("hf-file", values.get("hff"))
        if repo is not None:
            words += ["-hf", repo, *(["--hf-file", file] if file else [])]
        drafts = [values[key] for key in DRAFTS if key in values]
        for one in drafts:
            words += self._words(section, "hf-repo-draft", "hf-repo-draft", one)
        return Preset(
            words=tuple(words),
            model=None if model is None else Path(model).expanduser(),
            repo=repo,
            drafts=tuple(drafts),
            aliases=_listed(values.get("alias", values.get("a", ""))),
            tags=_listed(values.get("tags", "")),
            on_startup=self._switch(section, "load-on-startup", values.get("load-on-startup", "0")),
            stop_s=self._seconds(section, values.get("stop-timeout", "10")),
            dedup=self._switch(section, "dedup-cache-models", values.get("dedup-cache-models", "0")),
        )

    def _words(self, section: str, given: str, key: str, value: str) -> list[str]:
        flag = self.known.get(key)
        if flag is None:
            if any(name.lstrip("-") == key for one in HARMLESS for name in one.names):
                return []
            raise PowerInferError(f"{self.path}: [{section}] {given}: no flag of `powerinfer server` is called so")
        if flag.off is None:
            return [f"{flag.on}={value}"] if flag.on.startswith("--") else [flag.on, value]
        on = self._switch(section, given, value)
        return [flag.on] if on else [flag.off] if flag.off else []

    def _switch(self, section: str, key: str, value: str) -> bool:
        if value.lower() not in TRUE + FALSE:
            raise PowerInferError(f"{self.path}: [{section}] {key} must be true or false, not {value[:40]!r}")
        return value.lower() in TRUE

    def _seconds(self, section: str, value: str) -> float:
        if not (value.isascii() and value.isdigit() and len(value) < 6):
            raise PowerInferError(f"{self.path}: [{section}] stop-timeout must be seconds, not {value[:40]!r}")
        return float(value)


def section(name: str, line: CommandLine) -> str:
    """The words of a command line as a section that means the same."""
    lines = [f"[{name}]"]
    for flag, *values in groups(line):
        key, equals, given = flag.partition("=")
        value = values[0] if values else given if equals else "true"
        lines.append(f"{key.lstrip('-')} = {value}".replace("\n", "\\\n"))
    return "\n".join((*lines, "", ""))


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
