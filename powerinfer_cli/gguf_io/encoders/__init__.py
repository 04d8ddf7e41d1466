"""Quantised blocks whose scales are searched for."""

from .encode import SEARCHED, encode
from .fitting import REFITS, SAME, Choice, Fit, Grid, PlainFit, Scales

__all__ = ["REFITS", "SAME", "SEARCHED", "Choice", "Fit", "Grid", "PlainFit", "Scales", "encode"]
