"""`powerinfer cluster config`: a file for `serve deploy`, of the flags of `powerinfer cluster serve`."""

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from powerinfer_cli import __version__
from powerinfer_cli.commands.cluster.fleet import replica_loader
from powerinfer_cli.commands.cluster.replica_flags import ConfigFlags, FleetFlags
from powerinfer_cli.commands.server.command_line import CommandLine, current, groups, without
from powerinfer_cli.commands.server.served_flags import ServedFlags
from powerinfer_cli.commands.server.words import ServerCommand
from powerinfer_cli.commands.shared.command_app import command_app
from powerinfer_cli.errors import PowerInferError, UsageError
from powerinfer_cli.system.files import open_private

__all__ = ["app"]

EPILOG = """Examples:
powerinfer cluster config -m /models/big.gguf -t 16 --replicas 8 --gpus-per-replica 1 -o serve.yaml
serve deploy serve.yaml                    on a machine of the cluster; all of them have powerinfer[cluster]
powerinfer cluster config -hf REPO -t 8 --replicas auto --max-replicas 20 --host 0.0.0.0 --api-key-file keys"""

# What the file says elsewhere.
ELSEWHERE = frozenset(
    {"host", "port", "t", "threads", "o", "output", "replicas", "min-replicas", "max-replicas", "gpus-per-replica"}
    | {"drain-seconds"}
)
MODEL = frozenset({"m", "model"})
KEEP_ALIVE_S = 75
SECRET = frozenset({"api-key", "hf-token", "hft"})
UNPRINTABLE = re.compile(r"[\x7f-\x9f\u2028\u2029\ufeff]")  # YAML takes some of them for the end of a line

FILE = """# Of `powerinfer cluster config` {version}, for `serve deploy FILE`. Each node needs powerinfer[cluster].
proxy_location: EveryNode
http_options:
  host: {host}
  port: {port}
  keep_alive_timeout_s: {keep_alive}
applications:
- name: powerinfer
  route_prefix: /
  import_path: powerinfer_cli.commands.cluster.application:app
  args:
    replicas: {replicas}
{bounds}    gpus_per_replica: {gpus}
    cpus_per_replica: {cpus}  # threads of each, too
    drain_seconds: {draining}
    flags: {flags}  # of `powerinfer cluster serve`; paths are each node's own
"""


def config(to: ConfigFlags, fleet: FleetFlags, served: ServedFlags) -> None:
    """Write a file for `serve deploy`, by which a Ray cluster that is there serves a model as `cluster serve` does."""
    least, most = fleet.sizes()
    share = fleet.share()
    model, door = served.model, served.door
    replica_loader(
        replace(served, door=replace(door, api_key_file=None))
    )  # or it says what is wrong; paths are the nodes'
    if not door.port:
        raise UsageError("--port 0: the file must name a port")
    if model.threads < -1:
        raise UsageError(f"-t {model.threads}: must be the cores of each replica (default: 1)")
    flags = _flags(current.get())
    bounds = f"    min_replicas: {least}\n    max_replicas: {most}\n" if fleet.replicas == "auto" else ""
    text = FILE.format(
        version=__version__,
        host=_quoted(door.host),
        port=door.port,
        keep_alive=KEEP_ALIVE_S,
        replicas=fleet.replicas,
        bounds=bounds,
        gpus=0.0 if share is None else share,
        cpus=max(1, model.threads),
        draining=fleet.drain_seconds,
        flags=_quoted(flags),
    )
    secret = any(word.partition("=")[0].lstrip("-") in SECRET for word in flags if word.startswith("-"))
    _write(text, to.output, secret=secret)


def _flags(line: CommandLine) -> list[str]:
    """Those of a replica. A model's path is told whole: a node's working folder is another one."""
    words = []
    for group in groups(CommandLine(tuple(without(line, ELSEWHERE)), line.known)):
        name, equals, value = group[0].partition("=")
        if name.lstrip("-") in MODEL:
            given = Path(value if equals else group[-1]).expanduser()
            words += ["-m", str(given.absolute() if given.is_file() else given)]
        else:
            words += group
    return words


def _quoted(value: str | Sequence[str]) -> str:
    """As YAML has it."""
    text = json.dumps(value, ensure_ascii=False)
    return UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _write(text: str, path: Path | None, *, secret: bool) -> None:
    """secret: nobody but the owner may read it."""
    if path is None:
        sys.stdout.write(text)
        return
    try:
        # Path.open takes no opener.
        with open(path, "w", encoding="utf-8", opener=open_private if secret else None) as file:
            file.write(text)
    except UnicodeEncodeError as error:
        raise PowerInferError("a flag's value is not UTF-8: the file cannot hold it") from error
    except OSError as error:
        raise PowerInferError(f"-o {path}: cannot be written: {error.strerror}") from error


app = command_app("config", config, EPILOG, cls=ServerCommand)
