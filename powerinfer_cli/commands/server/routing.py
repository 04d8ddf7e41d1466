"""From the flags of `powerinfer server` to a router: which models there are, and how their servers are started."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from powerinfer_cli.commands.server.command_line import CommandLine, without
from powerinfer_cli.commands.server.environment import VARIABLES
from powerinfer_cli.commands.server.flags import RouterFlags
from powerinfer_cli.commands.server.input_end import ROUTED
from powerinfer_cli.commands.server.presets import ROUTERS, SOURCES, Preset, read_presets, section
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.hub.local import StoredModel, hub_cache, stored_models
from powerinfer_cli.router.entries import Catalog, Entry, Source, Start, without_tokens
from powerinfer_cli.router.options import RouterOptions
from powerinfer_cli.router.room import Room
from powerinfer_cli.serving.http.logs import Log
from powerinfer_cli.serving.options import ServerOptions
from powerinfer_cli.system.processes import python_program

__all__ = ["router_options"]

FAKE_S = 2.0  # with the variable by which llama-server's tests have models busy for a while
# Of the environment, what the router has done already, or would send models' servers elsewhere.
OWN = frozenset(
    prefixed
    for name, variable in VARIABLES.items()
    if variable.flag.lstrip("-") in ROUTERS | SOURCES
    for prefixed in (name, name.replace("LLAMA_ARG_", "LLAMA_ARG_NO_"))
)


def router_options(
    flags: RouterFlags, line: CommandLine, door: ServerOptions, budgets: tuple[int, ...], *, mapped: bool, log: Log
) -> RouterOptions:
    """budgets: bytes on each GPU for all models together. mapped: their weights stay in their files.

    Raises:
        PowerInferError: presets that make no sense, or a folder that cannot be read.
    """
    line = CommandLine(tuple(without(line, ROUTERS | SOURCES)), line.known)
    cache = hub_cache()

    def catalog() -> Catalog:
        common, sections = Preset(), dict[str, Preset]()
        if flags.models_preset is not None:
            common, sections = read_presets(flags.models_preset, line.known)
        folders = [] if flags.models_dir is None else [flags.models_dir]
        return _catalog(stored_models(folders, cache, log.note), cache, common, sections, line, flags.models_preset)

    program, variables = python_program()
    own = {name: value for name, value in os.environ.items() if name not in OWN}
    return RouterOptions(
        door=door,
        catalog=catalog,
        program=(program, "-m", "powerinfer_cli", "server"),
        environment={**own, **variables, ROUTED: "1"},
        room=Room(most=flags.models_max, budgets=budgets, mapped=mapped),
        autoload=flags.models_autoload,
        delay_s=FAKE_S if os.environ.get("LLAMA_SERVER_DEBUG_FAKE_TIMING") else 0.0,
    )


def _catalog(
    models: list[StoredModel],
    cache: Path,
    common: Preset,
    sections: Mapping[str, Preset],
    line: CommandLine,
    file: Path | None,
) -> Catalog:
    """line: the router's own, which wins over presets."""
    entries, names = [], set()
    hidden = {repo.lower() for one in sections.values() if one.dedup for repo in _repositories(one)}
    for model in models:
        preset = sections.get(model.name, common)
        names.add(model.name)
        repository = model.name.lower().partition(":")[0]
        folder = Source.CACHE if model.path.is_relative_to(cache) else Source.FOLDER
        source = Source.PRESET if model.name in sections else folder
        entry = _entry(model.name, preset, model.path, source, line)
        entries.append(replace(entry, size=model.size, hidden=repository in hidden))
    for name, preset in sections.items():
        if name in names:
            continue
        if preset.model is None and preset.repo is None:
            raise PowerInferError(f"{file}: [{name}] is no model here: give it model = FILE or hf-repo = REPO")
        size = preset.model.stat().st_size if preset.model is not None and preset.model.is_file() else 0
        entries.append(replace(_entry(name, preset, preset.model, Source.PRESET, line), size=size))
    return Catalog.of(entries)


def _repositories(preset: Preset) -> list[str]:
    return [one.partition(":")[0] for one in (preset.repo, *preset.drafts) if one is not None]


def _entry(name: str, preset: Preset, path: Path | None, source: Source, line: CommandLine) -> Entry:
    words = (*preset.words, *line.words, *(() if path is None else ("-m", str(path.absolute()))))
    shown = section(name, CommandLine(tuple(without_tokens(words)), line.known))
    start = Start(words, shown, preset.stop_s, preset.on_startup)
    return Entry(name, start, path, source, aliases=preset.aliases, tags=preset.tags)
