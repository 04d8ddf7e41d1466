"""Opening the file of a model that a command is about."""

from pathlib import Path

from powerinfer_cli.gguf_io import GGUFFile, open_gguf
from powerinfer_cli.kernels.jit.lost_files import report_lost_files

__all__ = ["open_model_file"]


def open_model_file(path: Path) -> GGUFFile:
    """As `open_gguf`; should the file be cut short later, the program ends with a line that says so."""
    gguf = open_gguf(path)
    report_lost_files(
        f"{path}: a part of it, or of a file that is used with it, was cut off or could not be read: "
        "files must stay as they are while they are used"
    )
    return gguf
