"""Files split by llama.cpp's `gguf-split`: NAME-00001-of-0000N.gguf and so on.

Every part is a GGUF file of its own; the first holds the metadata, each holds `split.no` (from 0), `split.count`
and `split.tensors.count` (of all parts together).
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from .cursor import Cursor
from .failure import GGUFError, shown, shown_path
from .magic import DENSE, SPARSE
from .metadata import MetaValue
from .tensor import Tensor

__all__ = ["check_not_joined", "merge_parts", "part_paths"]

_PART_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)


class Part(Protocol):
    """What is needed of an open part (a GGUFFile)."""

    @property
    def path(self) -> Path: ...
    @property
    def sparse(self) -> bool: ...
    @property
    def metadata(self) -> Mapping[str, MetaValue]: ...
    @property
    def tensors(self) -> Mapping[str, Tensor]: ...


def part_paths(path: Path, metadata: Mapping[str, MetaValue]) -> list[Path] | None:
    """The paths of all parts, in order, or None if the file is not split. All of them must exist."""
    if "split.count" not in metadata or (count := _number(path, metadata, "split.count")) <= 1:
        return None
    no = _number(path, metadata, "split.no")
    if not 0 <= no < count:
        raise GGUFError(f"{shown_path(path)}: split.no is {no}, but split.count is {count}")
    match = _PART_NAME.fullmatch(path.name)
    if match is None or (int(match[2]), int(match[3])) != (no + 1, count):
        raise GGUFError(
            f"{shown_path(path)}: this is part {no + 1} of {count} of a split file, "
            f"so its name must end in -{no + 1:05d}-of-{count:05d}.gguf for the others to be found"
        )
    paths = [path.with_name(f"{match[1]}-{i:05d}-of-{count:05d}.gguf") for i in range(1, count + 1)]
    for part in paths:
        if not part.exists():
            raise GGUFError(f"{shown_path(part)}: this part of the split file is missing")
    return paths


def check_not_joined(cursor: Cursor, end: int, alignment: int) -> None:
    """Raises GGUFError: behind a part, whose data end at byte `end`, another file begins."""
    for start in {end, -(-end // alignment) * alignment}:
        if cursor.buffer[start : start + 4] in (DENSE, SPARSE):
            raise cursor.error(
                "a second part of a split model begins here: parts cannot be joined end to end (by `cat`). Keep them "
                "as they were, in one folder, and give the path of the first; or make one file of them with "
                "`llama-gguf-split --merge FIRST-PART OUT`",
                start,
            )


def merge_parts(parts: Sequence[Part]) -> dict[str, Tensor]:
    """The tensors of all parts, which must agree on what they are parts of."""
    first = parts[0]
    claimed = _number(first.path, first.metadata, "split.tensors.count")
    owner: dict[str, Path] = {}
    merged: dict[str, Tensor] = {}
    for i, part in enumerate(parts):
        expected = {"split.no": i, "split.count": len(parts), "split.tensors.count": claimed}
        for key, wanted in expected.items():
            if (found := _number(part.path, part.metadata, key)) != wanted:
                raise GGUFError(f"{shown_path(part.path)}: {key} is {found}, but the other parts make it {wanted}")
        if part.sparse != first.sparse:
            raise GGUFError(f"{shown_path(part.path)}: its magic differs from that of the first part")
        for name, tensor in part.tensors.items():
            if name in owner:
                raise GGUFError(f"{shown_path(part.path)}: the tensor {shown(name)} is in {owner[name].name} too")
            owner[name] = part.path
            merged[name] = tensor
    if len(merged) != claimed:
        raise GGUFError(
            f"{shown_path(first.path)}: split.tensors.count is {claimed}, but the parts hold {len(merged)} tensors"
        )
    return merged


def _number(path: Path, metadata: Mapping[str, MetaValue], key: str) -> int:
    value = metadata.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise GGUFError(f"{shown_path(path)}: a split file needs an integer {key}")
    return value
