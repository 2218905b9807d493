/* The upsampling and colours of colour.c in vectors; included once for each kind of them. */

/* 3 x each number and the neighbour that `from` is moved by, the sum's low bits rounded and dropped. */
SIMD vector NAME(smooth)(vector three_times, vector neighbour, int rounding, int bits) {
    return NAME(shift_right)(NAME(add)(NAME(add)(three_times, neighbour), NAME(splat)(rounding)), bits);
}

/* A number for the even places, one for the odd ones: their bytes in turn. */
SIMD void NAME(store_in_turn)(uint8_t *out, vector even, vector odd) {
    NAME(store)(out, NAME(either)(even, NAME(shift_left)(odd, 8)));
}

SIMD vector NAME(three_times)(vector a) {
    return NAME(add)(a, NAME(add)(a, a));
}

SIMD_KERNEL void NAME(upsample_across)(const uint8_t *in, int n, uint8_t *out) {
    for (int i = 0; i < n; i += LANES) {
        const vector middle = NAME(three_times)(NAME(widen)(in + i));
        const vector even = NAME(smooth)(middle, NAME(widen)(in + i - 1), 1, 2);
        const vector odd = NAME(smooth)(middle, NAME(widen)(in + i + 1), 2, 2);
        NAME(store_in_turn)(out + 2 * i, even, odd);
    }
}

SIMD_KERNEL void NAME(upsample_down)(const uint8_t *near_row, const uint8_t *far_row, int n, int bias, uint8_t *out) {
    for (int i = 0; i < n; i += 2 * LANES) {
        const vector near_bytes = NAME(load)(near_row + i), far_bytes = NAME(load)(far_row + i);
        const vector low = NAME(three_times)(NAME(low_bytes)(near_bytes));
        const vector high = NAME(three_times)(NAME(high_bytes)(near_bytes));
        NAME(store)(out + i, NAME(to_bytes)(NAME(smooth)(low, NAME(low_bytes)(far_bytes), bias, 2),
                                            NAME(smooth)(high, NAME(high_bytes)(far_bytes), bias, 2)));
    }
}

SIMD_KERNEL void NAME(upsample_both)(
    const uint8_t *near_row, const uint8_t *far_row, int n, uint16_t *column_sums, uint8_t *out
) {
    uint16_t *const begin = column_sums + SUMS_BEFORE;
    for (int i = -SUMS_BEFORE; i <= n; i += LANES)
        NAME(store)(begin + i, NAME(add)(NAME(three_times)(NAME(widen)(near_row + i)), NAME(widen)(far_row + i)));
    for (int i = 0; i < n; i += LANES) {
        const vector middle = NAME(three_times)(NAME(load)(begin + i));
        const vector even = NAME(smooth)(middle, NAME(load)(begin + i - 1), 8, 4);
        const vector odd = NAME(smooth)(middle, NAME(load)(begin + i + 1), 7, 4);
        NAME(store_in_turn)(out + 2 * i, even, odd);
    }
}

/* What red, green and blue differ from Y by; cb and cr are less 128. Rounded products by `scaled` as there, whose
 * whole parts are added or taken away afterwards, since 16 bits hold no factor above 1/2. */
SIMD void NAME(differences)(vector cb, vector cr, vector *red, vector *green, vector *blue) {
    const vector one = NAME(splat)(1), cb_2 = NAME(add)(cb, cb), cr_2 = NAME(add)(cr, cr);
    const vector r = NAME(halve)(NAME(add)(NAME(multiply_high)(cr_2, CR_RED - 65536), one));
    const vector b = NAME(halve)(NAME(add)(NAME(multiply_high)(cb_2, CB_BLUE - 2 * 65536), one));
    const struct sums g = NAME(add_number)(NAME(products)(cb, cr, -CB_GREEN, 65536 - CR_GREEN), 32768);
    *red = NAME(add)(r, cr);
    *green = NAME(sub)(NAME(narrow)(g, 16), cr);
    *blue = NAME(add)(b, cb_2);
}

SIMD_KERNEL void NAME(to_rgb)(const uint8_t *y, const uint8_t *cb, const uint8_t *cr, int n, uint8_t *rgb) {
    const vector middle = NAME(splat)(128);
    for (int i = 0; i < n; i += 2 * LANES) {
        const vector ys = NAME(load)(y + i), cbs = NAME(load)(cb + i), crs = NAME(load)(cr + i);
        const vector y_low = NAME(low_bytes)(ys), y_high = NAME(high_bytes)(ys);
        vector red[2], green[2], blue[2];
        NAME(differences)(NAME(sub)(NAME(low_bytes)(cbs), middle), NAME(sub)(NAME(low_bytes)(crs), middle),
                          &red[0], &green[0], &blue[0]);
        NAME(differences)(NAME(sub)(NAME(high_bytes)(cbs), middle), NAME(sub)(NAME(high_bytes)(crs), middle),
                          &red[1], &green[1], &blue[1]);
        NAME(store_rgb)(rgb + 3 * i, NAME(to_bytes)(NAME(add)(y_low, red[0]), NAME(add)(y_high, red[1])),
                        NAME(to_bytes)(NAME(add)(y_low, green[0]), NAME(add)(y_high, green[1])),
                        NAME(to_bytes)(NAME(add)(y_low, blue[0]), NAME(add)(y_high, blue[1])));
    }
}
