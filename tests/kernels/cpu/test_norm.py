"""Norms, sums and quantisation of vectors against their plain twins."""

import numpy as np
import pytest
import torch

from powerinfer_cli.kernels import reference
from powerinfer_cli.kernels.cpu.norm import add, add_norm, quantise
from powerinfer_cli.kernels.jit.program import Operation
from powerinfer_cli.model import NormKind
from tests.helpers.kernels.kernel_runs import (
    check_records,
    on_any_team,
    poisoned_vectors,
    quants_of,
    rows_of,
    run,
    state_of,
    vectors_of,
)

SIZES = [1, 15, 100, 512, 1000, 2048]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.rungs
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("n_adds", [0, 1, 2])
@pytest.mark.parametrize("kind", ["rms", "layer", "layer with bias"])
def test_add_norm(n: int, n_adds: int, kind: str) -> None:
    x, weight, eps = normal(5, n) + 0.5, normal(n, seed=1), 1e-5
    bias = normal(n, seed=2) if kind == "layer with bias" else None
    adds = [normal(5, n, seed=3 + i) for i in range(n_adds)]
    norm = NormKind.RMS if kind == "rms" else NormKind.LAYER
    results = []

    def make() -> tuple[Operation, list[np.ndarray]]:
        stream, out = vectors_of(x), poisoned_vectors(5, n)
        results[:] = [stream, out]
        rows = tuple(rows_of(a, np.nan) for a in adds)
        operation = add_norm(state_of(5), stream, rows, weight, bias, out, eps, norm)
        return operation, [stream.floats, stream.records, out.floats, out.records]

    on_any_team(make)
    stream, out = results
    total = torch.from_numpy(sum(adds, x)).double()
    weights, biases = torch.from_numpy(weight), None if bias is None else torch.from_numpy(bias).double()
    if norm is NormKind.RMS:
        wanted = reference.rms_norm(total, weights, eps)
    else:
        wanted = reference.layer_norm(total, weights.double(), biases, eps)
    np.testing.assert_allclose(stream.floats[:, :n], total, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(out.floats[:, :n], wanted, rtol=3e-5 if n == 1 else 1e-5, atol=3e-6)
    check_records(stream)
    check_records(out)


def test_records_only_where_there_is_room() -> None:
    stream, out = vectors_of(normal(2, 70), records=False), poisoned_vectors(2, 70, records=False)
    run(add_norm(state_of(2), stream, (), normal(70), None, out, 1e-5, NormKind.RMS))
    assert np.isfinite(out.floats).all()


def test_tokens_beyond_the_batch_are_left_alone() -> None:
    stream, out = vectors_of(normal(4, 70)), poisoned_vectors(4, 70)
    run(add_norm(state_of(3), stream, (rows_of(normal(4, 70)),), normal(70), None, out, 1e-5, NormKind.RMS))
    assert np.isnan(out.floats[3]).all()
    assert (out.records[3] == 0xFF).all()
    np.testing.assert_array_equal(stream.floats[3, :70], normal(4, 70)[3])


def test_a_token_alone() -> None:
    """The same bits as within a batch."""
    x = normal(4, 300)
    whole, single = poisoned_vectors(4, 300), poisoned_vectors(1, 300)
    run(add_norm(state_of(4), vectors_of(x), (), normal(300), None, whole, 1e-5, NormKind.LAYER), threads=2)
    run(add_norm(state_of(1), vectors_of(x[2:3]), (), normal(300), None, single, 1e-5, NormKind.LAYER))
    np.testing.assert_array_equal(single.records[0], whole.records[2])
    np.testing.assert_array_equal(single.floats[0], whole.floats[2])


def test_large_numbers_keep_their_variance() -> None:
    x = normal(1, 2048) + 1000
    out = poisoned_vectors(1, 2048)
    run(add_norm(state_of(1), vectors_of(x), (), np.ones(2048, np.float32), None, out, 1e-5, NormKind.LAYER))
    exact = x.astype(np.float64)
    np.testing.assert_allclose(out.floats, (exact - exact.mean()) / exact.std(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("n", SIZES)
def test_add(n: int) -> None:
    x, y, z = normal(3, n), normal(3, n, seed=1), normal(3, n, seed=2)
    stream = vectors_of(x)
    run(add(state_of(3), stream, rows_of(y, np.nan), rows_of(z, np.nan)), threads=2)
    np.testing.assert_array_equal(stream.floats[:, :n], x + y + z)
    check_records(stream)


def test_rows_of_another_size() -> None:
    with pytest.raises(ValueError, match="added to rows"):
        add(state_of(1), vectors_of(normal(1, 600)), rows_of(normal(1, 500)))


@pytest.mark.rungs
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("n", SIZES)
def test_quantise(n: int, relu: bool) -> None:
    x = normal(3, n)
    x[1] = -np.abs(x[1])
    x[2, : n // 2] = 0
    results = []

    def make() -> tuple[Operation, list[np.ndarray]]:
        results[:] = [vectors_of(x)]
        return quantise(state_of(3), results[0], relu=relu), [results[0].floats, results[0].records]

    on_any_team(make)
    np.testing.assert_array_equal(results[0].floats[:, :n], np.maximum(x, 0) if relu else x)
    check_records(results[0])


@pytest.mark.rungs
def test_what_is_no_number_stays_none() -> None:
    """Bytes cannot say it, so a group's scale does."""
    x = normal(2, 600)
    x[1, 40], x[1, 599] = np.nan, np.inf
    found = vectors_of(x)
    run(quantise(state_of(2), found))
    groups = np.argwhere(~np.isfinite(quants_of(found)[1])).tolist()
    assert groups == [[1, 40 // 32], [1, 599 // 32]]
