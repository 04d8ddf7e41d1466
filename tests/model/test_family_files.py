"""A family of architectures is data: one short file that knows blocks, keys and tensors, and nothing else."""

import ast
from pathlib import Path
from types import ModuleType

import pytest

from powerinfer_cli.model import families, registry

MOST_LINES = 60
MODEL = "powerinfer_cli.model"
MODULES = ("architecture", "blocks", "keys", "tensors")
READ_PARTS = (
    *("experts", "experts_beside", "head_sizes", "latent", "layer_inputs", "output_scales", "recurrent"),
    "shared_keys",
)
ENDS = f"{MODEL}.families.encoders.ends"
PARTS = {f"{MODEL}.{name}" for name in MODULES} | {f"{MODEL}.parts.{name}" for name in READ_PARTS}
KNOWN = PARTS | {"dataclasses", "functools", ENDS}


def source(family: ModuleType) -> str:
    assert family.__file__ is not None
    return Path(family.__file__).read_text()


@pytest.mark.parametrize("family", registry.FAMILIES, ids=lambda family: family.__name__)
def test_a_family_is_one_short_file(family: ModuleType) -> None:
    assert len(source(family).splitlines()) <= MOST_LINES


@pytest.mark.parametrize("family", registry.FAMILIES, ids=lambda family: family.__name__)
def test_a_family_knows_nothing_but_parts(family: ModuleType) -> None:
    for node in ast.walk(ast.parse(source(family))):
        assert not isinstance(node, ast.Import), ast.unparse(node)
        if isinstance(node, ast.ImportFrom):
            named = {name.name for name in node.names}
            assert node.module in KNOWN or (node.module == "powerinfer_cli.gguf_io" and named == {"Tensor"}), (
                ast.unparse(node)
            )


def test_every_family_is_registered_once() -> None:
    """A file that has ARCHITECTURES belongs to the registry, whose names are all different."""
    folder = Path(families.__file__).parent
    having = {path.stem for path in folder.rglob("*.py") if "\nARCHITECTURES = (" in path.read_text()}
    assert having == {family.__name__.rpartition(".")[2] for family in registry.FAMILIES}
    assert len(registry.ARCHITECTURES) == sum(len(family.ARCHITECTURES) for family in registry.FAMILIES)
