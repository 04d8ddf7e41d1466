"""Pages of the KV cache: who has which, and that none is lost."""

import numpy as np
import pytest

from powerinfer_cli.kernels.cache import PAGE
from powerinfer_cli.runtime.context.pages import NONE, Extent, PageTable


def test_one_sequence_has_its_pages_in_order() -> None:
    table = PageTable(Extent(1000))
    table.resize(0, 1000)
    np.testing.assert_array_equal(table.cells(0, 0, 1000), np.arange(1000))
    assert table.room(0) == 0
    assert table.extent.n_cells(None) == 8 * PAGE


def test_divided() -> None:
    table = PageTable(Extent(1000, 3))
    assert table.n_ctx_sequence == 333
    assert table.extent.n_cells(None) == 9 * PAGE
    for sequence in range(3):
        table.resize(sequence, 333)
    assert [table.room(sequence) for sequence in range(3)] == [0, 0, 0]
    with pytest.raises(ValueError, match="no room for 334 tokens in sequence 1"):
        table.resize(1, 334)


def test_shared() -> None:
    table = PageTable(Extent(1000, 3, unified=True))
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
    table, random = PageTable(Extent(n_ctx, n_sequences, unified)), np.random.default_rng(0)
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
        assert cells.size == 0 or 0 <= cells.min() <= cells.max() < table.extent.n_cells(None)
    for sequence in range(n_sequences):
        table.resize(sequence, 0)
    assert (table.tables == NONE).all()
    assert table.n_used == 0


def test_windows_take_turns() -> None:
    """A window of 200 and batches of 60 span four pages at most."""
    table = PageTable(Extent(5000, 2, window=200, most_tokens=60))
    assert (table.extent.n_cells(None), table.extent.n_cells(200)) == (2 * 20 * PAGE, 2 * 4 * PAGE)
    assert table.of(200) is table.windowed
    assert table.of(None) is table
    for length in range(60, 2460, 60):
        table.extend(1, length)
    assert [table.left(1, n) for n in (2400, 2300, 2119, 2118, 0)] == [2400, 2300, 2119, 0, 0]


@pytest.mark.parametrize("extent", [Extent(1000, 2), Extent(512, 2, window=500), Extent(900, 9, True, 100, 512)])
def test_windows_without_pages_of_their_own(extent: Extent) -> None:
    """There are none, or whole contexts take no more than they would."""
    assert extent.turns == 0
    assert extent.n_cells(extent.window) == extent.n_cells(None)
    table = PageTable(extent)
    assert table.of(extent.window).tables is table.tables


@pytest.mark.parametrize("most_tokens", [1, 7, 300])
@pytest.mark.parametrize("window", [1, 2, 128, 129, 400])
def test_a_window_always_finds_its_positions(window: int, most_tokens: int) -> None:
    """Whatever is appended, cut off, moved, saved and put back: each cell has what was written there last."""
    extent = Extent(3 * 2000, 3, window=window, most_tokens=most_tokens)
    table, random = PageTable(extent), np.random.default_rng(window)
    pages = table.windowed
    assert pages is not None
    cells, ids = np.zeros(extent.n_cells(window), np.int64), [list[int]() for _ in range(3)]
    moved = cut = 0
    for _ in range(600):
        s = int(random.integers(3))
        own, n = ids[s], len(ids[s])
        what = random.random()
        if what < 0.8:
            new = random.integers(1, 1 << 40, min(int(random.integers(1, most_tokens + 1)), 2000 - n)).tolist()
            table.extend(s, n + len(new))
            cells[pages.cells(s, n, n + len(new))] = new
            own += new
            seen = pages.first(n)
        elif what < 0.9:
            left = table.left(s, max(0, n - int(random.integers(0, 40))))
            cut += 0 < left < n
            if left == 0:
                pages.become(s, 0)
            table.resize(s, left)
            del own[left:]
            seen = pages.first(left)
        else:
            n_keep = int(random.integers(0, min(n, 5) + 1))
            n_discard = int(random.integers(0, n - n_keep + 1))
            begin = pages.begin_behind(s, n, n_keep, n_discard)
            if begin > pages.first(n - n_discard):
                continue
            source, target = pages.moves(s, n, n_keep, n_discard)
            cells[target] = cells[source]
            moved += source.size > 0
            pages.become(s, begin)
            del own[n_keep : n_keep + n_discard]
            table.resize(s, len(own))
            seen = begin
        np.testing.assert_array_equal(cells[pages.cells(s, seen, len(own))], own[seen:])
    assert moved > 5
    assert cut > 5 or most_tokens == 1
