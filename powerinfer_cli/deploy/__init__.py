"""Files to deploy `powerinfer server` with: a Dockerfile, compose files with Open WebUI, a systemd unit.

`python -m powerinfer_cli.deploy FOLDER` copies them there.
"""

from importlib.resources import files
from pathlib import Path

__all__ = ["copy_out"]


def copy_out(folder: Path) -> list[Path]:
    """Write the files into `folder`, which is made where it is missing; none that is there is overwritten.

    Returns the new ones, in order of their names. Raises FileExistsError, before anything is written, and OSError.
    """
    sources = sorted(
        (item for item in files("powerinfer_cli.deploy").iterdir() if item.is_file() and not item.name.endswith(".py")),
        key=lambda item: item.name,
    )
    targets = [folder / item.name for item in sources]
    for target in targets:
        if target.exists():
            raise FileExistsError(f"{target} is there already: choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for source, target in zip(sources, targets, strict=True):
        target.write_bytes(source.read_bytes())
    return targets
