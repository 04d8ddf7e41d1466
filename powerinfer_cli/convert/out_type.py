"""What a user may ask for."""

from enum import StrEnum

__all__ = ["OutType"]


class OutType(StrEnum):
    """Of a file's matrices; auto: what the checkpoint's own are."""

    AUTO = "auto"
    F16 = "f16"
    BF16 = "bf16"
    F32 = "f32"
    Q8_0 = "q8_0"
