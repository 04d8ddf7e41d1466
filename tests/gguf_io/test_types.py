import gguf
import pytest

from powerinfer_cli.gguf_io import BLOCK, GGMLType
from powerinfer_cli.gguf_io.types import REMOVED_TYPES, ValueType


@pytest.mark.parametrize("peer", gguf.GGMLQuantizationType)
def test_numbers_and_sizes_are_those_of_the_gguf_package(peer: gguf.GGMLQuantizationType) -> None:
    assert GGMLType[peer.name] == peer.value
    # The package has Q8_1 with the float32 fields that ggml gave up for float16 ones; it is in no file.
    expected = (32, 36) if peer.name == "Q8_1" else gguf.GGML_QUANT_SIZES[peer]
    assert BLOCK[GGMLType[peer.name]] == expected


def test_every_type_has_a_size_and_every_number_one_meaning() -> None:
    assert set(BLOCK) == set(GGMLType)
    assert {kind.value for kind in GGMLType} | set(REMOVED_TYPES) == set(range(43))
    assert not {kind.value for kind in GGMLType} & set(REMOVED_TYPES)


def test_value_types_are_those_of_the_gguf_package() -> None:
    assert {kind.name: kind.value for kind in ValueType} == {kind.name: kind.value for kind in gguf.GGUFValueType}
