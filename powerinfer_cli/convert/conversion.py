"""What is told of an architecture so that its checkpoints can be converted: names, moves of numbers, keys.

A checkpoint's tensor is named by its module's path; in layers, by the path from there (`self_attn.q_proj`), numbers
within it written `*` (`mlp.experts.*.gate_proj`): such tensors are stacked in the order of their numbers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from powerinfer_cli.convert.checkpoint import Config

__all__ = ["Array", "Change", "Conversion", "Floats", "KeyValues", "Names", "Packed", "Part", "Vocabulary", "no_keys"]

Array: TypeAlias = npt.NDArray[Any]
Floats: TypeAlias = npt.NDArray[np.float32]
Change: TypeAlias = Callable[[Array], Array]
KeyValues: TypeAlias = dict[str, Any]
"""Without the architecture in front; None: no such key, whatever was written for all. `/` in front: as it is."""


@dataclass(frozen=True)
class Packed:
    """Blocks and scales to MXFP4's bytes; shape: of the numbers, by the blocks'."""

    pack: Callable[[Array, Array], Array]
    shape: Callable[[tuple[int, ...]], tuple[int, ...]]


@dataclass(frozen=True)
class Part:
    """What becomes of one tensor, or of a part of it. name: the file's, in its layer.

    moved: numbers elsewhere, or some of them, of an array of any type; it is tried on one without memory to learn the
    shape. computed: other numbers in the same places, of floats. packed: of this and of the tensor `beside` it.
    """

    name: str
    moved: Change | None = None
    computed: Change | None = None
    beside: str = ""
    packed: Packed | None = None


Names: TypeAlias = dict[str, str | Part | tuple[Part, ...]]
"""A path -> the file's name. With `.weight` or another ending, the whole name of a tensor; without it, all of a
module's, whose endings stay."""


@dataclass(frozen=True)
class Vocabulary:
    """special: texts of tokens by what they mean (bos, eos, ...), whatever the tokenizer's files say. pre: the names of
    pre-tokenizers to prefer among those that do the same. merges: BPE of characters has its merges in the file.
    """

    special: Mapping[str, str] = field(default_factory=dict)
    pre: tuple[str, ...] = ()
    merges: bool = False


def no_keys(config: Config) -> KeyValues:
    """None but those of all architectures."""
    return {}


def no_tensors(config: Config) -> dict[str, Floats]:
    return {}


def as_named(config: Config, name: str) -> str:
    return name


def always(config: Config) -> bool:
    return True


@dataclass(frozen=True)
class Conversion:
    """arch: the file's. classes: as config.json's `architectures` names them.

    names, keys: by the configuration. extra: tensors that are computed of it. renamed: names as others have them.
    told: paths of numbers, one a layer, that become keys. general: whether the keys of all architectures are written
    first. skipped: names of tensors that are not needed, as a regular expression. guessing: layers behind the last,
    which guess further tokens, are kept. fits: of several of one class, the first that fits counts. defaults: of
    numbers that are not in config.json, as transformers has them.
    """

    arch: str
    classes: tuple[str, ...]
    names: Callable[[Config], Names]
    keys: Callable[[Config], KeyValues] = no_keys
    extra: Callable[[Config], dict[str, Floats]] = no_tensors
    renamed: Callable[[Config, str], str] = as_named
    told: Mapping[str, str] = field(default_factory=dict)
    general: bool = True
    skipped: str = ""
    guessing: bool = False
    fits: Callable[[Config], bool] = always
    defaults: Mapping[str, Any] = field(default_factory=dict)
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
