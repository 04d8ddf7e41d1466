"""How matrix products hold their operands: tiles of TOKENS tokens, panels of ROWS rows.

Lanes are rows. A panel of bytes holds for each four columns the ROWS rows' four bytes; scales, minima and float
weights lie as [column or group][ROWS]. Where the CPU multiplies matrices (i8mm), of each eight columns and 16 rows the
first half of these bytes has rows 0..7, the other rows 8..15, eight bytes of each.

Packed tokens, int: for each 32 columns BLOCK bytes:
  int8 q [TOKENS][32]; float32 d [TOKENS]; int32 -128 * sums of q [TOKENS]; the same per half: int32 [2][TOKENS]
Packed tokens, float: for each 8 columns float32 [TOKENS][8].

In fixed point, GROUP columns share a scale, and panels hold for each two columns the ROWS rows' two int16. Packed
tokens: for each GROUP columns FIXED_BLOCK bytes: int16 q [TOKENS][GROUP]; float32 d [TOKENS].
"""

__all__ = [
    "BIASES",
    "BLOCK",
    "FIXED_BLOCK",
    "FIXED_LARGEST",
    "FIXED_SCALES",
    "GROUP",
    "HALF_BIASES",
    "ROWS",
    "SCALES",
    "TOKENS",
]

TOKENS, ROWS = 6, 32  # 12 float and 12 integer sums, of 32 registers
SCALES, BIASES, HALF_BIASES, BLOCK = 192, 216, 256, 320  # bytes

GROUP, FIXED_LARGEST = 128, 4095  # the sum of 128 products of such numbers has 32 bits
FIXED_SCALES = TOKENS * GROUP * 2
FIXED_BLOCK = FIXED_SCALES + 64
