"""Running operations on a team of threads, with memory poisoned first."""

from collections.abc import Callable, Sequence

import numpy as np

from powerinfer_cli.kernels.cache import PAGE
from powerinfer_cli.kernels.cpu.segments import State
from powerinfer_cli.kernels.cpu.vectors import Vectors, make_vectors
from powerinfer_cli.kernels.formats import padded
from powerinfer_cli.kernels.jit.program import Operation, assemble
from tests.helpers.kernels.teams import team_of

_kept: list[State] = []  # numbers point into what a state holds


def state_of(n_tokens: int, n_past: int = 0, pages: Sequence[int] | None = None) -> np.ndarray:
    """Of one sequence, in so many pages; by default those that come first."""
    row = np.arange(-(-(n_tokens + n_past) // PAGE)) if pages is None else pages
    return states_of([(n_tokens, n_past, row)])


def states_of(segments: Sequence[tuple[int, int, Sequence[int]]]) -> np.ndarray:
    """Of (tokens, tokens before, pages) of several sequences."""
    state = State(len(segments))
    state.fill([(count, past, np.array(row, np.int32)) for count, past, row in segments])
    _kept.append(state)
    return state.numbers


def run(*operations: Operation, threads: int = 1) -> None:
    """Carry out operations one after the other."""
    program = assemble(operations)
    team = team_of(threads)
    team.run(program.table)
    team.close()


def on_any_team(make: Callable[[], tuple[Operation, list[np.ndarray]]]) -> list[np.ndarray]:
    """The results of an operation, made anew for 1, 2 and 3 threads: equal to the bit. `make`: (operation, results)."""
    found: list[list[np.ndarray]] = []
    for threads in (1, 2, 3):
        operation, results = make()
        run(operation, threads=threads)
        found.append([r.copy() for r in results])
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one.view(np.uint8), two.view(np.uint8))
    return found[0]


def vectors_of(x: np.ndarray, *, records: bool = True) -> Vectors:
    """x [T, n] with zeros behind n; records poisoned."""
    made = poisoned_vectors(len(x), x.shape[1], records=records)
    made.floats[:] = 0
    made.floats[:, : x.shape[1]] = x
    return made


def poisoned_vectors(n_tokens: int, n: int, *, records: bool = True) -> Vectors:
    made = make_vectors(n_tokens, n, records=records)
    made.floats[:], made.records[:] = np.nan, 0xFF
    return made


def rows_of(x: np.ndarray, fill: float = 0.0) -> np.ndarray:
    """x [T, n] as float32 [T, padded(n)], `fill` behind n."""
    made = np.full((len(x), padded(x.shape[1])), fill, np.float32)
    made[:, : x.shape[1]] = x
    return made


def quants_of(v: Vectors) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The parts of records: q [T, P], d [T, P/32], sums per 32 [T, P/32], sums per 16 [T, P/16]."""
    p = v.stride
    parts = np.split(v.records[:, : p * 3 // 2], [p, p + p // 8, p + p // 4], axis=1)
    q, d, sums, half_sums = (np.ascontiguousarray(part) for part in parts)
    return q.view(np.int8), d.view(np.float32), sums.view(np.int32), half_sums.view(np.int32)


def check_records(v: Vectors) -> None:
    """Records are the quantised floats, behind n as well, where both are zeros."""
    q, d, sums, half_sums = quants_of(v)
    groups = v.floats.reshape(len(v.floats), -1, 32)
    peaks = np.abs(groups).max(-1)
    np.testing.assert_allclose(d, peaks / 127, rtol=1e-6)
    error = np.abs(q.reshape(groups.shape) * d[..., None] - groups)
    assert (error <= peaks[..., None] / 127 * 0.5001).all()
    np.testing.assert_array_equal(sums, q.reshape(groups.shape).sum(-1, dtype=np.int32))
    np.testing.assert_array_equal(half_sums, q.reshape(len(q), -1, 16).sum(-1, dtype=np.int32))
    p = v.stride
    for group, at in ((32, p * 3 // 2), (16, p * 5 // 2)):
        in_lanes = q.view(np.int32).reshape(len(q), -1, 16, group // 4).swapaxes(2, 3)
        np.testing.assert_array_equal(
            v.records[:, at : at + p].view(np.int8), in_lanes.reshape(len(q), -1).view(np.int8)
        )
    assert not v.floats[:, v.n :].any()
    assert not q[:, v.n :].any()
