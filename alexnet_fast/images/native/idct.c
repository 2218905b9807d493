/* Coefficients to samples: T.81 A.3.3 (inverse DCT), A.3.4 (dequantization) and the level shift of A.3.1.
 *
 * The algorithm is that of Loeffler, Ligtenberg and Moschytz (ICASSP 1989), first down the columns and then along the
 * rows, in whole numbers with 13 bits behind the point and 2 more kept between the passes: libjpeg's "ISLOW", to the
 * bit. Its vector code for x86 works in 16 bits between multiplications, and so do all of these: what a damaged
 * picture drives out of range wraps in the four sums z1 to z4, saturates where a pass ends, and wraps where a block has
 * nothing but its first row, which is shifted instead of transformed. */

#include "kernels.h"

enum { SHIFT = 13, PASS_BITS = 2, ONE = 1 << SHIFT };

/* Cosines and their sums, times 2^13. */
enum {
    F_0_299 = 2446, F_0_390 = 3196, F_0_541 = 4433, F_0_765 = 6270, F_0_900 = 7373, F_1_176 = 9633, F_1_501 = 12299,
    F_1_848 = 15137, F_1_962 = 16069, F_2_053 = 16819, F_2_563 = 20995, F_3_073 = 25172,
};

static int16_t saturate(int32_t value) {
    return (int16_t)(value < INT16_MIN ? INT16_MIN : value > INT16_MAX ? INT16_MAX : value);
}

/* Eight numbers, `stride` apart, to eight; shifted down by `bits` and rounded. Sums may wrap, as in vectors. */
static void transform(const int16_t *in, int16_t *out, int stride, int bits) {
    int32_t x[8];
    for (int i = 0; i < 8; i++)
        x[i] = in[i * stride];
    const uint32_t half = 1u << (bits - 1);
    const uint32_t even_2 = (uint32_t)x[2] * F_0_541 + (uint32_t)x[6] * (uint32_t)(F_0_541 - F_1_848);
    const uint32_t even_3 = (uint32_t)x[2] * (F_0_541 + F_0_765) + (uint32_t)x[6] * F_0_541;
    const int32_t z1 = (int16_t)(x[0] + x[4]), z2 = (int16_t)(x[0] - x[4]);
    const uint32_t even_0 = (uint32_t)z1 * ONE + half, even_1 = (uint32_t)z2 * ONE + half;
    const int32_t z3 = (int16_t)(x[7] + x[3]), z4 = (int16_t)(x[5] + x[1]);
    const uint32_t y3 = (uint32_t)z3 * (uint32_t)(F_1_176 - F_1_962) + (uint32_t)z4 * F_1_176;
    const uint32_t y4 = (uint32_t)z3 * F_1_176 + (uint32_t)z4 * (F_1_176 - F_0_390);
    const uint32_t odd_0 = (uint32_t)x[7] * (uint32_t)(F_0_299 - F_0_900) - (uint32_t)x[1] * F_0_900 + y3;
    const uint32_t odd_1 = (uint32_t)x[5] * (uint32_t)(F_2_053 - F_2_563) - (uint32_t)x[3] * F_2_563 + y4;
    const uint32_t odd_2 = (uint32_t)x[3] * (F_3_073 - F_2_563) - (uint32_t)x[5] * F_2_563 + y3;
    const uint32_t odd_3 = (uint32_t)x[1] * (F_1_501 - F_0_900) - (uint32_t)x[7] * F_0_900 + y4;
    const uint32_t even[4] = {even_0 + even_3, even_1 + even_2, even_1 - even_2, even_0 - even_3};
    const uint32_t odd[4] = {odd_3, odd_2, odd_1, odd_0};
    for (int i = 0; i < 4; i++) {
        out[i * stride] = saturate((int32_t)(even[i] + odd[i]) >> bits);
        out[(7 - i) * stride] = saturate((int32_t)(even[i] - odd[i]) >> bits);
    }
}

static void idct_one_plain(int16_t *block, const uint16_t *quant, uint8_t *out, ptrdiff_t stride) {
    int16_t values[64];
    int lower = 0;
    for (int i = 0; i < 64; i++) {
        lower |= i < 8 ? 0 : block[i];
        values[i] = (int16_t)((uint32_t)block[i] * quant[i]);
    }
    memset(block, 0, 64 * sizeof *block);
    for (int x = 0; x < 8; x++) {
        if (lower) {
            transform(values + x, values + x, 8, SHIFT - PASS_BITS);
        } else {
            for (int y = 7; y >= 0; y--)
                values[8 * y + x] = (int16_t)((uint32_t)values[x] << PASS_BITS);
        }
    }
    for (int y = 0; y < 8; y++) {
        transform(values + 8 * y, values + 8 * y, 1, SHIFT + PASS_BITS + 3);
        for (int x = 0; x < 8; x++) {
            const int sample = values[8 * y + x] + 128;
            out[y * stride + x] = (uint8_t)(sample < 0 ? 0 : sample > 255 ? 255 : sample);
        }
    }
}

void idct_two_plain(int16_t *blocks, const uint16_t *quant, uint8_t *first, uint8_t *second, ptrdiff_t stride) {
    idct_one_plain(blocks, quant, first, stride);
    idct_one_plain(blocks + BLOCK_STRIDE, quant, second, stride);
}

#define STAGE "idct_vector.h"
#include "each_vector.h"
