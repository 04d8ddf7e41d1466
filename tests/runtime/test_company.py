"""What a sequence is told does not depend on its company, to the bit, for every type of weights."""

from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.kernels.few import FEW
from powerinfer_cli.runtime import Engine, Piece
from tests.helpers.families import FAMILIES, tiny_family
from tests.helpers.families.family import tiny
from tests.helpers.kernels.sparse_reference import random_predictors
from tests.helpers.model_file import ModelFile
from tests.helpers.tiny_models import N_VOCAB, RELU_CASES, tiny_model

N = 5
DENSE = ("llama-yarn", "llama-biases", "qwen2", "qwen3", "falcon-40b", "opt")


def file_of(name: str, sparse: bool, kind: GGMLType) -> ModelFile:
    tiny = tiny_model(name)
    file = tiny.file.sparsified(random_predictors(tiny)) if sparse else tiny.file
    return file if kind is GGMLType.F32 else file.stored_as(kind)


def written(engine: Engine, prompts: list[list[int]], company: bool) -> list[list[np.ndarray]]:
    """The logits of each prompt, and of each of six tokens that follow; all in one step, or each sequence by itself."""
    tokens = np.random.default_rng(1).integers(0, N_VOCAB, (6, len(prompts))).tolist()
    told: list[list[np.ndarray]] = [[] for _ in prompts]
    for ids in [prompts, *([[t] for t in row] for row in tokens)]:
        pieces = [Piece(i, part) for i, part in enumerate(ids)]
        steps = [pieces] if company else [[piece] for piece in pieces]
        answers = [answer for step in steps for answer in engine.step(step)]
        for sequence, answer in zip(told, answers, strict=True):
            assert answer is not None
            sequence.append(answer)
    return told


def agree(file: ModelFile, folder: Path, **options: object) -> None:
    random = np.random.default_rng(0)
    prompts = [random.integers(0, N_VOCAB, int(size)).tolist() for size in random.integers(2, 9, N)]
    prompts[3] = prompts[3][:1]  # a token among prompts
    both = [
        written(file.engine(folder, n_ctx=64 * N, n_sequences=N, n_ubatch=64, **options), prompts, company)
        for company in (False, True)
    ]
    for alone, together in zip(*both, strict=True):
        for one, two in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("name", "sparse"), [*((name, False) for name in DENSE), *((name, True) for name in RELU_CASES)]
)
def test_architectures(tmp_path: Path, name: str, sparse: bool) -> None:
    agree(file_of(name, sparse, GGMLType.F32), tmp_path, n_threads=2)


@pytest.mark.parametrize("kind", [GGMLType[name] for name in ("F16", "BF16", "Q4_0", "Q4_1", "Q8_0", "MXFP4")])
@pytest.mark.parametrize("sparse", [False, True])
def test_types_of_weights(tmp_path: Path, kind: GGMLType, sparse: bool) -> None:
    agree(file_of("llama-relu", sparse, kind), tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "mixtral",
        "qwen2moe",
        "qwen3moe",
        "dots1",
        "smallthinker",
        "gpt-oss",
        "deepseek3",
        "llama4",
        "lfm2moe",
        "qwen35moe",
        "gemma4-small",
    ],
)
def test_families(tmp_path: Path, name: str) -> None:
    agree(tiny_family(name).file, tmp_path, n_threads=2)


@pytest.mark.parametrize("kind", [GGMLType.F16, GGMLType.Q4_0, GGMLType.MXFP4], ids=lambda kind: kind.name)
def test_types_of_experts(tmp_path: Path, kind: GGMLType) -> None:
    file = tiny("olmoe", FAMILIES["olmoe"], intermediate_size=96).file
    agree(file.stored_as(kind), tmp_path, n_threads=2)


@pytest.mark.parametrize("options", [{"all_active": True}, {"repack": False}, {"type_k": "f16"}, {"n_threads": 3}])
def test_options(tmp_path: Path, options: dict[str, object]) -> None:
    agree(file_of("bamboo", True, GGMLType.Q4_0), tmp_path, **options)


@pytest.mark.parametrize("sparse", [False, True])
def test_where_a_prompt_is_cut_changes_no_bit(tmp_path: Path, sparse: bool) -> None:
    """As long as no piece is a single token."""
    file = file_of("llama-relu", sparse, GGMLType.Q4_0)
    ids = np.random.default_rng(0).integers(0, N_VOCAB, 60).tolist()
    whole = file.engine(tmp_path, n_ubatch=64).prefill(ids)
    engine = file.engine(tmp_path, n_ctx=300, n_sequences=3)
    for begin, end in ((0, 2), (2, 35), (35, 57)):
        engine.step([Piece(1, ids[begin:end]), Piece(0, [3]), Piece(2, [1, 2, 3])])
    np.testing.assert_array_equal(engine.step([Piece(2, [5]), Piece(1, ids[57:])])[1], whole)


def test_more_than_a_few(tmp_path: Path) -> None:
    n = FEW + 3
    engine = tiny_model("llama").file.engine(tmp_path, n_ctx=20 * n, n_sequences=n)
    told = engine.step([Piece(i, [i]) for i in range(n)])
    alone = tiny_model("llama").file.engine(tmp_path)
    for i, answer in enumerate(told):
        alone.reset()
        np.testing.assert_array_equal(answer, alone.decode(i))
