"""One model a family, against what llama.cpp's converter makes of it: keys, and all bits of all tensors."""

import json
from pathlib import Path
from typing import Any

import pytest

from powerinfer_cli.convert.checkpoint import open_checkpoint
from powerinfer_cli.convert.converting import convert_checkpoint, write_converted
from powerinfer_cli.convert.families import __path__ as families
from powerinfer_cli.convert.out_type import OutType
from powerinfer_cli.convert.registry import CONVERSIONS
from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.model import ARCHITECTURES
from tests.helpers.checkpoints import digest, plain_keys, plainly_filled, save_checkpoint, tiny_checkpoints

# Written down by scripts/checks/check_convert.py --record, of models whose numbers follow from their places.
RECORD: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "converted.json").read_text())


@pytest.mark.parametrize("name", RECORD)
def test_keys_and_bits_are_those_of_llama_cpp(name: str, tmp_path: Path) -> None:
    save_checkpoint(plainly_filled(tiny_checkpoints()[name]()), tmp_path)
    converted = convert_checkpoint(open_checkpoint(tmp_path), OutType.F16, vocabulary=False)
    (path,) = write_converted(converted, tmp_path / "out.gguf")
    with open_gguf(path) as gguf:
        assert plain_keys(gguf) == RECORD[name]["keys"]
        assert digest(gguf) == RECORD[name]["digest"]


def test_every_architecture_can_be_converted() -> None:
    made = {one.arch for conversions in CONVERSIONS.values() for one in conversions}
    assert made == set(ARCHITECTURES)


def test_families_are_those_of_the_models() -> None:
    """A file here for each there, so that one finds both."""
    here = {path.stem for path in Path(families[0]).glob("*.py")} - {"__init__", "names"}
    there = Path(families[0]).parents[1] / "model" / "families"
    assert here <= {path.stem for path in there.glob("*.py")}
