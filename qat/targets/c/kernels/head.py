"""What every C file begins with: which processor it is compiled for, and the types that describe its layers."""

from __future__ import annotations

BLOCK = 16  #: outputs whose weights lie beside one another

HEAD = """\
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512VNNI__)
#include <immintrin.h>
#define USE_VNNI
#elif defined(__AVX2__)
#include <immintrin.h>
#define USE_AVX2
#elif defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 1) && defined(__GNUC__) && !defined(__ARM_BIG_ENDIAN)
#include <arm_acle.h>
#include <arm_mve.h>
#define USE_HELIUM
#define USE_SIMD32
#elif defined(__ARM_NEON) && defined(__aarch64__) && defined(__GNUC__) && !defined(__AARCH64EB__)
#include <arm_neon.h>
#define USE_NEON
#elif defined(__ARM_FEATURE_SIMD32) && defined(__GNUC__)
#include <arm_acle.h>
#define USE_SIMD32
#endif

#define BLOCK 16 /* outputs whose weights lie beside one another */
"""

SCALING = """\
/* Where the sums of a layer become codes. bias: of 1, 2 or 4 bytes each. left: 0 where no multiplier is above 1. Multipliers,
 * and shifts, may be one for all outputs. In the float arithmetic multipliers are the bits of float32 numbers, shifts are
 * 0, and low and high are those of the code before `zero` is added. */
typedef struct {
    const void *bias;
    const int32_t *multiplier;
    const uint8_t *left, *right;
    int32_t zero, low, high;
    uint8_t bias_bytes, each_multiplier, each_shift;
} Scaling;

"""

#: After SCALING.
LAYER = """\
enum { IN_PLACE, BANDS, WINDOWS }; /* how a layer's products read its input */

/* A convolution; a dense layer is one of a single pixel, a point-wise convolution has one row of all pixels. */
typedef struct {
    const void *weight;   /* blocks of up to BLOCK outputs, group after group; 0: all of them are `every` */
    const int8_t *values; /* what indices stand for, where a weight has fewer bits than a byte */
    const int16_t *excess; /* what the weights of each output are more than a byte holds; or 0 */
    Scaling scaling;
    int32_t channels, height, width, padded_width; /* of the input, and between its padding */
    int32_t outputs, out_height, out_width;
    int32_t kernel_height, kernel_width, stride_y, stride_x, dilation_y, dilation_x, top, left;
    int32_t groups, group_bytes; /* of the weights of one group */
    int32_t every;
    uint8_t zero, bits, reads, filled; /* the code of 0 in the input; bits of a weight; unused words meet codes of 0 */
} Layer;
"""
