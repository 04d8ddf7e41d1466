"""Pages of the KV cache: who has which, and that none is lost."""

import numpy as np
import pytest

from powerinfer_cli.kernels.cache import PAGE
from powerinfer_cli.runtime.pages import NONE, PageTable


def test_one_sequence_has_its_pages_in_order() -> None:
    table = PageTable(1000)
    table.resize(0, 1000)
    np.testing.assert_array_equal(table.cells(0, 0, 1000), np.arange(1000))
    assert table.room(0) == 0
    assert table.n_cells == 8 * PAGE


def test_divided() -> None:
    table = PageTable(1000, 3)
    assert table.n_ctx_sequence == 333
    assert table.n_cells == 9 * PAGE
    for sequence in range(3):
        table.resize(sequence, 333)
    assert [table.room(sequence) for sequence in range(3)] == [0, 0, 0]
    with pytest.raises(ValueError, match="no room for 334 tokens in sequence 1"):
        table.resize(1, 334)


def test_shared() -> None:
    table = PageTable(1000, 3, unified=True)
    table.resize(1, 900)
    assert [table.room(sequence) for sequence in range(3)] == [100, 100, 100]
    with pytest.raises(ValueError, match="no room for 101 tokens in sequence 0"):
        table.resize(0, 101)
    table.resize(0, 100)
    assert [table.room(sequence) for sequence in range(3)] == [0, 0, 0]
    table.resize(1, 0)
    table.resize(2, 900)
    assert table.room(0) == 0


@pytest.mark.parametrize("unified", [False, True])
@pytest.mark.parametrize(("n_ctx", "n_sequences"), [(1, 1), (700, 5), (1024, 4), (130, 16), (129, 3)])
def test_no_cell_is_two_sequences_and_none_is_lost(n_ctx: int, n_sequences: int, unified: bool) -> None:
    table, random = PageTable(n_ctx, n_sequences, unified=unified), np.random.default_rng(0)
    lengths = [0] * n_sequences
    for _ in range(300):
        sequence = int(random.integers(n_sequences))
        most = lengths[sequence] + table.room(sequence)
        # The worst for what is shared: everyone has begun a page, and as much is used as there is.
        length = most if random.random() < 0.3 else int(random.integers(most + 1))
        before = table.cells(sequence, 0, min(length, lengths[sequence])).tolist()
        table.resize(sequence, length)
        lengths[sequence] = length
        assert table.cells(sequence, 0, len(before)).tolist() == before  # nothing moves
        cells = np.concatenate([table.cells(s, 0, n) for s, n in enumerate(lengths)])
        assert len(np.unique(cells)) == table.n_used == sum(lengths)
        assert cells.size == 0 or 0 <= cells.min() <= cells.max() < table.n_cells
    for sequence in range(n_sequences):
        table.resize(sequence, 0)
    assert (table.tables == NONE).all()
    assert table.n_used == 0
