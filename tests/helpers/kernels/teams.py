"""Teams for tests: of as many threads as asked for, though this machine may have fewer cores."""

from unittest import mock

from powerinfer_cli.kernels.jit import team
from powerinfer_cli.kernels.jit.team import Team

__all__ = ["team_of"]


def team_of(size: int, *, steady: bool = False) -> Team:
    """All of its threads take part."""
    with mock.patch.object(team, "usable_cores", return_value=frozenset(range(size))):
        return Team(size, steady=steady)
