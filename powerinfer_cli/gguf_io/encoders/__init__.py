"""Quantised blocks whose scales are searched for."""

from ..encoder import LARGEST_HALF
from .encode import BY_GRID, SEARCHED, encode
from .fitting import REFITS, SAME, Choice, Fit, Grid, Nearest, PlainFit, Scales

__all__ = [
    "BY_GRID",
    "LARGEST_HALF",
    "REFITS",
    "SAME",
    "SEARCHED",
    "Choice",
    "Fit",
    "Grid",
    "Nearest",
    "PlainFit",
    "Scales",
    "encode",
]
