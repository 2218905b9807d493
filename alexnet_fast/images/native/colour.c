/* Samples to RGB: chroma rows as wide and as many as luma rows, then the colours.
 *
 * Halved chroma is smoothed by a triangle, as libjpeg does it ("fancy upsampling"): an output lies a quarter of a sample
 * from the nearest one, which weighs 3/4, and the next nearest weighs 1/4, along each halved axis. What is half way
 * is rounded up and down in turn, which the roundings below do. Colours are those of JFIF 1.02, with factors of 16 bits
 * behind the point:
 *
 *     R = Y + 1.402 Cr    G = Y - 0.34414 Cb - 0.71414 Cr    B = Y + 1.772 Cb    (Cb and Cr less 128) */

#include "kernels.h"

void upsample_across_plain(const uint8_t *in, int n, uint8_t *out) {
    for (int i = 0; i < n; i++) {
        out[2 * i] = (uint8_t)((3 * in[i] + in[i - 1] + 1) >> 2);
        out[2 * i + 1] = (uint8_t)((3 * in[i] + in[i + 1] + 2) >> 2);
    }
}

void upsample_down_plain(const uint8_t *near_row, const uint8_t *far_row, int n, int bias, uint8_t *out) {
    for (int i = 0; i < n; i++)
        out[i] = (uint8_t)((3 * near_row[i] + far_row[i] + bias) >> 2);
}

void upsample_both_plain(
    const uint8_t *near_row, const uint8_t *far_row, int n, uint16_t *column_sums, uint8_t *out
) {
    uint16_t *const begin = column_sums + SUMS_BEFORE;
    for (int i = -1; i <= n; i++)
        begin[i] = (uint16_t)(3 * near_row[i] + far_row[i]);
    for (int i = 0; i < n; i++) {
        out[2 * i] = (uint8_t)((3 * begin[i] + begin[i - 1] + 8) >> 4);
        out[2 * i + 1] = (uint8_t)((3 * begin[i] + begin[i + 1] + 7) >> 4);
    }
}

static uint8_t clip(int value) {
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

/* `factor` x `chroma` in whole levels. */
static int scaled(int factor, int chroma) {
    return (factor * chroma + 32768) >> 16;
}

void to_rgb_plain(const uint8_t *y, const uint8_t *cb, const uint8_t *cr, int n, uint8_t *rgb) {
    for (int i = 0; i < n; i++, rgb += 3) {
        const int blue = cb[i] - 128, red = cr[i] - 128;
        rgb[0] = clip(y[i] + scaled(CR_RED, red));
        rgb[1] = clip(y[i] + ((-CB_GREEN * blue - CR_GREEN * red + 32768) >> 16));
        rgb[2] = clip(y[i] + scaled(CB_BLUE, blue));
    }
}

#define STAGE "colour_vector.h"
#include "each_vector.h"
