/* The functions behind `struct kernels`, by name, and what their twins share. */

#ifndef ALEXNET_FAST_KERNELS_H
#define ALEXNET_FAST_KERNELS_H

#include "jpeg.h"

/* Factors of JFIF's colours times 2^16. */
enum { CR_RED = 91881, CB_GREEN = 22554, CR_GREEN = 46802, CB_BLUE = 116130 };

/* Numbers before the first of `column_sums`, a whole vector. */
enum { SUMS_BEFORE = 16 };

#define DECLARE(kind) \
    uint8_t *destuff_##kind(const uint8_t **source, const uint8_t *limit, const uint8_t *end, uint8_t *out); \
    void decode_mcu_##kind(struct bit_reader *reader, const struct mcu_plan *plan, int32_t *dc, int16_t *blocks); \
    void decode_two_##kind( \
        struct bit_reader *readers, const struct mcu_plan *plan, int32_t (*dc)[MAX_COMPONENTS], int16_t *blocks \
    ); \
    void idct_two_##kind(int16_t *blocks, const uint16_t *quant, uint8_t *first, uint8_t *second, ptrdiff_t stride); \
    void upsample_across_##kind(const uint8_t *in, int n, uint8_t *out); \
    void upsample_down_##kind(const uint8_t *near_row, const uint8_t *far_row, int n, int bias, uint8_t *out); \
    void upsample_both_##kind( \
        const uint8_t *near_row, const uint8_t *far_row, int n, uint16_t *column_sums, uint8_t *out \
    ); \
    void to_rgb_##kind(const uint8_t *y, const uint8_t *cb, const uint8_t *cr, int n, uint8_t *rgb);

DECLARE(plain)
DECLARE(sse2)
DECLARE(avx2)
DECLARE(neon)
#undef DECLARE

#endif
