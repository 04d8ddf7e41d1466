"""The README says of every architecture that it runs, and of no other."""

from powerinfer_cli.model.registry import ARCHITECTURES
from scripts.architectures_table import README, table, with_table


def test_the_readme_is_up_to_date() -> None:
    """Else: python -m scripts.architectures_table --update."""
    text = README.read_text()
    assert with_table(text) == text


def test_every_architecture_says_who_has_it_and_what_it_is() -> None:
    for name, one in ARCHITECTURES.items():
        assert one.models, name
        assert one.differs, name
        assert f"| `{name}` | {one.models} |" in table()
        assert "|" not in one.models + one.differs
