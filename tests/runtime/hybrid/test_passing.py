"""Pages of a cache in main memory on their way through a device, rehearsed on the CPU."""

import numpy as np
import pytest
import torch

from powerinfer_cli.kernels.cache import PAGE, CacheType, KeysValues, Shape
from powerinfer_cli.kernels.device.cache import DeviceCache, read_rows
from powerinfer_cli.runtime.device.link import Link
from powerinfer_cli.runtime.hybrid.passing import PassingPages

PAGES, HEADS, DIMS = 40, 2, 64


def filled(type_k: CacheType, type_v: CacheType) -> KeysValues:
    cache = KeysValues.make(Shape(4, HEADS, DIMS, PAGES * PAGE), type_k, type_v)
    cells = np.arange(PAGES * PAGE)
    rng = np.random.default_rng(0)
    for write in (cache.write_keys, cache.write_values):
        write(cells, rng.standard_normal((len(cells), HEADS, DIMS)).astype(np.float32))
    return cache


def rows_of(there: DeviceCache) -> tuple[np.ndarray, np.ndarray]:
    """[n, heads, dims] each."""
    cells = torch.arange(there.n_cells)
    pairs = ((there.k, there.k_scales), (there.v, there.v_scales))
    k, v = (read_rows(numbers, scales, cells).transpose(0, 1).numpy().copy() for numbers, scales in pairs)
    return k, v


@pytest.mark.parametrize(
    ("type_k", "type_v"),
    [(CacheType.F32, CacheType.F16), (CacheType.Q8_0, CacheType.F32), (CacheType.F16, CacheType.Q8_0)],
)
def test_they_arrive_in_order_by_turns(type_k: CacheType, type_v: CacheType) -> None:
    """What has come stays while the next comes, and goes with the one after that."""
    cache = filled(type_k, type_v)
    passing = PassingPages(Link(torch.device("cpu")), {3: cache}, {3: PAGES})
    assert passing.most(3) == PAGES // 8
    chunks = [np.array(pages, np.int32) for pages in ([7, 2, 31, 0, 39], [4], [5, 6])]
    wanted = [cache.read((chunk[:, None] * PAGE + np.arange(PAGE)).reshape(-1)) for chunk in chunks]
    with passing.on_device(3, chunks[0]) as first:
        pass
    with passing.on_device(3, chunks[1]) as second:
        for there, one in ((first, wanted[0]), (second, wanted[1])):
            for found, expected in zip(rows_of(there), one, strict=True):
                np.testing.assert_array_equal(found, expected)
    with passing.on_device(3, chunks[2]) as third:
        assert third.v.data_ptr() != second.v.data_ptr()
        np.testing.assert_array_equal(rows_of(third)[0], wanted[2][0])
        np.testing.assert_array_equal(rows_of(second)[0], wanted[1][0])
