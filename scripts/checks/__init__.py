"""Comparisons with other programs and packages, and walks of bad input: by hand, not in the suite."""
