"""The norms as kernels know them: by number, 0 where there is none."""

from powerinfer_cli.model import NormKind

__all__ = ["NORM_CODES", "NO_NORM"]

NO_NORM = 0
NORM_CODES = {NormKind.RMS: 1, NormKind.LAYER: 2}
