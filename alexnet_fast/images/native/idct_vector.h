/* The inverse DCT of idct.c in vectors; included once for each kind of them. A register holds a row of one block, or with
 * AVX2 of two. */

SIMD void NAME(transform)(vector r[8], int bits) { /* as `transform`, of each of the numbers side by side */
    const struct sums even_2 = NAME(products)(r[2], r[6], F_0_541, F_0_541 - F_1_848);
    const struct sums even_3 = NAME(products)(r[2], r[6], F_0_541 + F_0_765, F_0_541);
    const vector z1 = NAME(add)(r[0], r[4]), z2 = NAME(sub)(r[0], r[4]);
    const struct sums even_0 = NAME(add_number)(NAME(products)(z1, z1, ONE / 2, ONE / 2), 1 << (bits - 1));
    const struct sums even_1 = NAME(add_number)(NAME(products)(z2, z2, ONE / 2, ONE / 2), 1 << (bits - 1));
    const vector z3 = NAME(add)(r[7], r[3]), z4 = NAME(add)(r[5], r[1]);
    const struct sums y3 = NAME(products)(z3, z4, F_1_176 - F_1_962, F_1_176);
    const struct sums y4 = NAME(products)(z3, z4, F_1_176, F_1_176 - F_0_390);
    const struct sums odd_0 = NAME(add_sums)(NAME(products)(r[7], r[1], F_0_299 - F_0_900, -F_0_900), y3);
    const struct sums odd_1 = NAME(add_sums)(NAME(products)(r[5], r[3], F_2_053 - F_2_563, -F_2_563), y4);
    const struct sums odd_2 = NAME(add_sums)(NAME(products)(r[5], r[3], -F_2_563, F_3_073 - F_2_563), y3);
    const struct sums odd_3 = NAME(add_sums)(NAME(products)(r[7], r[1], -F_0_900, F_1_501 - F_0_900), y4);
    const struct sums a0 = NAME(add_sums)(even_0, even_3), a3 = NAME(sub_sums)(even_0, even_3);
    const struct sums a1 = NAME(add_sums)(even_1, even_2), a2 = NAME(sub_sums)(even_1, even_2);
    r[0] = NAME(narrow)(NAME(add_sums)(a0, odd_3), bits), r[7] = NAME(narrow)(NAME(sub_sums)(a0, odd_3), bits);
    r[1] = NAME(narrow)(NAME(add_sums)(a1, odd_2), bits), r[6] = NAME(narrow)(NAME(sub_sums)(a1, odd_2), bits);
    r[2] = NAME(narrow)(NAME(add_sums)(a2, odd_1), bits), r[5] = NAME(narrow)(NAME(sub_sums)(a2, odd_1), bits);
    r[3] = NAME(narrow)(NAME(add_sums)(a3, odd_0), bits), r[4] = NAME(narrow)(NAME(sub_sums)(a3, odd_0), bits);
}

SIMD void NAME(idct)(int16_t *blocks, const uint16_t *quant, uint8_t *first, uint8_t *second, ptrdiff_t stride) {
    vector r[8], lower = NAME(splat)(0);
    for (int i = 0; i < 8; i++) {
        const vector row = NAME(take_row)(blocks, i);
        if (i > 0)
            lower = NAME(either)(lower, row);
        r[i] = NAME(multiply)(row, NAME(load_quant)(quant + 8 * i));
    }
    const vector zeros = NAME(blocks_of_zeros)(lower), flat = NAME(shift_left)(r[0], PASS_BITS);
    if (NAME(is_all)(zeros)) {
        for (int i = 0; i < 8; i++)
            r[i] = flat;
    } else {
        NAME(transform)(r, SHIFT - PASS_BITS);
        if (LANES == 16 && NAME(is_any)(zeros))
            for (int i = 0; i < 8; i++)
                r[i] = NAME(choose)(zeros, flat, r[i]);
    }
    NAME(transpose)(r);
    NAME(transform)(r, SHIFT + PASS_BITS + 3);
    NAME(store_columns)(r, first, second, stride);
}

SIMD_KERNEL void NAME(idct_two)(
    int16_t *blocks, const uint16_t *quant, uint8_t *first, uint8_t *second, ptrdiff_t stride
) {
    NAME(idct)(blocks, quant, first, second, stride);
    if (LANES == 8)
        NAME(idct)(blocks + BLOCK_STRIDE, quant, second, NULL, stride);
}
