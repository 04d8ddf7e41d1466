"""A model on this machine."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from powerinfer_cli.hub.choice import Model

__all__ = ["StoredModel", "names_of"]

_ENDINGS = re.compile(r"(?:-\d{5}-of-\d{5})?\.gguf$|\.powerinfer(?=(?:-\d{5}-of-\d{5})?\.gguf$)", re.IGNORECASE)


@dataclass(frozen=True)
class StoredModel:
    """name: by which -m and requests find it. files: of a split one all parts, in order. size: their bytes.

    missing: how many parts are not there.
    """

    name: str
    files: tuple[Path, ...]
    size: int
    missing: int = 0

    @property
    def path(self) -> Path:
        """The first file's."""
        return self.files[0]


def names_of(models: Sequence[Model]) -> list[str]:
    """Of models whose paths are relative to one folder: a file's name without its endings; in a folder of its own, that
    folder's; FOLDER:TYPE where a folder holds several types of one model, else FOLDER/FILE.
    """
    folders = Counter(_folder(model) for model in models)
    types = Counter((_folder(model), model.quant) for model in models)
    names = []
    for model in models:
        folder, stem = _folder(model), _ENDINGS.sub("", PurePosixPath(model.path).name)
        if not folder:
            names.append(stem)
        elif folders[folder] == 1:
            names.append(folder)
        elif model.quant and types[folder, model.quant] == 1:
            names.append(f"{folder}:{model.quant}")
        else:
            names.append(f"{folder}/{stem}")
    return names


def _folder(model: Model) -> str:
    folder = PurePosixPath(model.path).parent
    return "" if folder == PurePosixPath(".") else folder.as_posix()
