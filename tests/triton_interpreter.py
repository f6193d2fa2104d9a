"""Repairs of Triton's interpreter (3.6 to 3.9), so that it computes what a GPU would."""

import functools

import numpy as np


@functools.cache
def repair():
    """Call it once Triton may be imported, before the first kernel runs."""
    import triton.language as tl
    from triton.runtime import interpreter

    # It truncates float32 to bfloat16, where a GPU rounds to nearest, ties to even; and widens
    # subnormal numbers wrongly.
    convert_float = interpreter._convert_float

    def convert(x, from_dtype, to_dtype, rounding_mode):
        if (from_dtype, to_dtype) == (tl.float32, tl.bfloat16):
            bits = np.ascontiguousarray(x).view(np.uint32)
            rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
            return np.where(np.isnan(x), 0x7FC0, rounded).astype(np.uint16)
        if (from_dtype, to_dtype) == (tl.bfloat16, tl.float32):
            return x.astype(np.uint32) << 16
        return convert_float(x, from_dtype, to_dtype, rounding_mode)

    interpreter._convert_float = convert

    # 3.6 has no constants of bfloat16.
    def get_bf16(builder, value):
        return builder.create_fp_trunc(builder.get_fp32(value), tl.bfloat16)

    interpreter.InterpreterBuilder.get_bf16 = get_bf16

    # range(n) of an argument n: an array of one element, which numpy 2.4 takes for no index.
    patch_tensor = interpreter._patch_lang_tensor

    def with_index(tensor, *args):
        patch_tensor(tensor, *args)
        tensor.__index__ = lambda self: int(self.handle.data.item())

    interpreter._patch_lang_tensor = with_index

    # It multiplies the bits of bfloat16.
    create_dot = interpreter.InterpreterBuilder.create_dot

    def dot(builder, a, b, *rest):
        if a.get_element_ty() == tl.bfloat16:
            a, b = (builder.create_fp_ext(x, tl.float32) for x in (a, b))
        return create_dot(builder, a, b, *rest)

    interpreter.InterpreterBuilder.create_dot = dot
