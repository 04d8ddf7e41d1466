"""Vector values for kernels: LLVM vectors as Numba types, with +, -, *, &, |, >>, << and the operations below.

F32x16, I32x16: 16 lanes. B64, B32, B16: so many bytes. Pointers come from addresses (`f32(address)`), index like 1-D
arrays, and offsets count elements. Wider than the CPU's registers is no problem: LLVM splits.
"""

from powerinfer_cli.kernels.jit import deferring

_ROOMS = {
    "addresses": "address_of calling f32 float_of half i8 i32 i64 prefetch stack_f32 store_half u8 u16",
    "bundles": (
        "add_bundle lowering_bundle meeting_bundle scale_bundle scale_first scale_second starting_bundle store_bundle"
    ),
    "builders": "B16 B32 B64 F32x16 I32x16 Vector",
    "dots": "dot_signed dot_unsigned pair_columns",
    "lanes": "byte doubled groups_of_16 groups_of_32 join lanes_of_16 lanes_of_32 lookup",
    "memory": (
        "at_least bits64 load16 load32 load64 load_bf16 load_f16 load_f32 load_i8 load_i32 load_powers "
        "load_u8 lowest_bit quad splat_f16 store16 store32 store64 store_bits store_f16 store_f32 store_i16 "
        "store_i8 store_i32 two_f16"
    ),
    "numbers": (
        "absolute first first_or fma largest maximum minimum nearest plus power_of_two product reciprocal splat "
        "splat_i32 table16 to_f32 total unsigned_f32 where_greater where_positive zero zero64 zero_i32"
    ),
    "tokens": "add_products lower multiplying neighbours scale starting store_sums tokens_at zeros",
    "threads": (
        "atomic_load atomic_store compare_exchange fetch_add nanoseconds pause sem_init sem_post sem_wait will_need"
    ),
    "panels": "multiply multiply_fixed multiply_floats transposer",
    "sparse_dots": "dot_floats dot_records",
    "registers": ("add_scaled columns_f16 columns_f32 columns_i8 load_tile outer scaled_by_pairs store_tile zero_tile"),
}

__all__ = [name for names in _ROOMS.values() for name in names.split()]

__getattr__ = deferring(__name__, _ROOMS)
