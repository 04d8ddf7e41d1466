"""Quantised blocks whose scales are searched for."""

from ..encoder import LARGEST_HALF
from .encode import SEARCHED, encode
from .fitting import REFITS, SAME, Choice, Fit, Grid, Nearest, PlainFit, Scales

__all__ = [
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
