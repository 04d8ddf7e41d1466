"""The GPU's side: weight rows in planes, and every operation of a layer in torch and in Triton. `ops` is the door."""

from powerinfer_cli.kernels.device.cache import DeviceCache, cache_bytes, make_cache
from powerinfer_cli.kernels.device.ops import Ops, ops_for
from powerinfer_cli.kernels.device.planar import PlanarRows, planar_bytes, planar_type
from powerinfer_cli.kernels.device.unpack import to_planar

__all__ = [
    "DeviceCache",
    "Ops",
    "PlanarRows",
    "cache_bytes",
    "make_cache",
    "ops_for",
    "planar_bytes",
    "planar_type",
    "to_planar",
]
