"""HiGHS, such that the same programme has the same answer, and without a word."""

import os

import highspy

__all__ = ["run_highs"]


def run_highs(programme: highspy.HighsLp, gap: float, most_nodes: int, time_limit: float) -> highspy.Highs:
    """The solver once it has ended: with one thread and a fixed seed, as soon as the best is known within `gap` (a
    share), after so many nodes or so many seconds.
    """
    highs = _silent_highs()
    for name, value in {
        "output_flag": False,
        "threads": 1,
        "random_seed": 0,
        "mip_rel_gap": gap,
        "mip_max_nodes": most_nodes,
        "time_limit": time_limit,
    }.items():
        highs.setOptionValue(name, value)
    highs.passModel(programme)
    highs.run()
    return highs


def _silent_highs() -> highspy.Highs:
    """HiGHS names itself on file descriptor 1 as it is made, before any option can forbid that."""
    stdout, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 1)
        return highspy.Highs()  # type: ignore[no-untyped-call]  # highspy leaves its constructor untyped
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        os.close(nothing)
