"""Codes of sums with the DSP extension of Arm (Cortex-M4, M7, M33), and what stands before and behind all of its kernels."""

from __future__ import annotations

#: Before and behind all of it.
BEFORE = """\
#if defined(USE_ASSEMBLY) && defined(__ARM_FP) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC target("general-regs-only") /* else GCC 12 looks for operands of assembly in the floating-point unit */
#endif
"""
BEHIND = """\
#if defined(USE_ASSEMBLY) && defined(__ARM_FP) && !defined(__clang__)
#pragma GCC pop_options
#endif
"""

FINISH = """\
/* Sums are formed twice as large, of doubled inputs or, of channels each on its own, doubled weights: what becomes a code is
 * within 2^30, and SMMULR wants its double. In the float arithmetic it may be larger. */
#ifdef FLOAT_ARITHMETIC
#define DOUBLED 0
#else
#define DOUBLED 1
#endif

/* Bytes 0 and 2 of a word as halves. */
static inline uint32_t even_bytes(uint32_t x)
{
    return (uint32_t)__uxtb16(x);
}

/* Bytes 1 and 3. Assembly, since GCC 12 does not rotate in the same instruction. */
static inline uint32_t odd_bytes(uint32_t x)
{
    uint32_t y;
    __asm__("uxtb16 %0, %1, ror #8" : "=r"(y) : "r"(x));
    return y;
}

static inline int32_t bias_of(const Scaling *scaling, int32_t i)
{
    return scaling->bias_bytes == 1   ? ((const int8_t *)scaling->bias)[i]
           : scaling->bias_bytes == 2 ? ((const int16_t *)scaling->bias)[i]
                                      : ((const int32_t *)scaling->bias)[i];
}

/* Of a sum, which is doubled, of output i; bias not yet added. */
static inline uint8_t code_of(int32_t sum, int32_t i, const Scaling *scaling)
{
    const uint32_t bias = (uint32_t)bias_of(scaling, i) << DOUBLED;
    return code_of_sum(scaling, (int32_t)((uint32_t)sum + bias) >> DOUBLED, i);
}

/* The same, with the bias, of a `quick` output: bits are left to be rounded, so few that the zero point is added before the
 * shift, and codes are those that a byte holds. What `requantize` rounds first is SMMULR, which GCC 12 has no name for. ties:
 * of negative numbers are rounded as well; none is needed where a code of 0 is stored as 0. */
static inline int32_t quick_code_of(int32_t sum, int32_t multiplier, int32_t right, int32_t offset, const int32_t ties)
{
    int32_t x = sum;
    __asm__("smmulr %0, %1, %2" : "=r"(x) : "r"(x), "r"(multiplier));
    if (ties)
        x += x >> 31;
    return (int32_t)__usat((x + offset) >> right, 8);
}
"""
