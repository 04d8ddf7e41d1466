"""Where the results of `powerinfer solve` go."""

from collections.abc import Callable
from pathlib import Path

from powerinfer_cli.errors import PowerInferError, UsageError
from powerinfer_cli.files import check_writable
from powerinfer_cli.gguf_io import GGUFFile
from powerinfer_cli.opening.bundled import is_bundled
from powerinfer_cli.opening.companions import cached_results
from powerinfer_cli.placement import gpuidx_path
from solver.owner import results_folder
from solver.stages import Place

__all__ = ["results_place"]


def results_place(gguf: GGUFFile, output: Path | None, note: Callable[[str], None]) -> tuple[Place, Path | None]:
    """Beside the model, or where `output` says, and then the plan's file as well; in the user's cache folder where the
    model's takes nothing. Raises UsageError: an output that is a file.
    """
    path = gguf.path
    if output is None:
        own = cached_results(gguf)
        if is_bundled(path):
            return Place(own), None
        try:
            check_writable(path.parent, "")
        except PowerInferError:
            note(f"{path.parent} takes no files: what is made goes to {own} (-o DIR names another place)")
            return Place(own), None
        return Place(results_folder(gguf)), None
    if output.suffix == ".gpuidx":
        return Place(output.parent), output
    if output.exists() and not output.is_dir():
        raise UsageError(f"-o {output} is a file: give a folder, or a plan's name that ends in .gpuidx")
    return Place(output), output / gpuidx_path(path).name
