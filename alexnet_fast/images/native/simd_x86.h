/* What idct_vector.h and colour_vector.h are written in, for SSE2 and for AVX2: include it with WITH_AVX2 0 or 1.
 *
 * A register of AVX2 is two halves of 128 bits, and most of its instructions work in each half alone. "Low" and "high" mean
 * in each half, and what was taken apart in that order is put together in it. */

#undef NAME
#undef SIMD
#undef SIMD_KERNEL
#undef vector
#undef sums
#undef OP
#undef WHOLE
#undef LANES

#if WITH_AVX2
#define NAME(function) function##_avx2
#define SIMD TARGET("avx2,bmi,bmi2") ALWAYS_INLINE
#define SIMD_KERNEL TARGET("avx2,bmi,bmi2")
#define vector __m256i
#define sums sums_avx2
#define OP(instruction) _mm256_##instruction
#define WHOLE(instruction) _mm256_##instruction##_si256
#define LANES 16 /* 16-bit numbers of a register */
#else
#define NAME(function) function##_sse2
#define SIMD ALWAYS_INLINE
#define SIMD_KERNEL
#define vector __m128i
#define sums sums_sse2
#define OP(instruction) _mm_##instruction
#define WHOLE(instruction) _mm_##instruction##_si128
#define LANES 8
#endif

SIMD vector NAME(load)(const void *from) {
    return WHOLE(loadu)((const vector *)from);
}
SIMD void NAME(store)(void *to, vector a) {
    WHOLE(storeu)((vector *)to, a);
}
SIMD vector NAME(splat)(int value) {
    return OP(set1_epi16)((short)value);
}
SIMD vector NAME(widen)(const uint8_t *from) { /* LANES bytes to numbers */
#if WITH_AVX2
    return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)from));
#else
    return _mm_unpacklo_epi8(_mm_loadl_epi64((const __m128i *)from), _mm_setzero_si128());
#endif
}
SIMD vector NAME(add)(vector a, vector b) {
    return OP(add_epi16)(a, b);
}
SIMD vector NAME(sub)(vector a, vector b) {
    return OP(sub_epi16)(a, b);
}
SIMD vector NAME(multiply)(vector a, vector b) { /* the low 16 bits */
    return OP(mullo_epi16)(a, b);
}
SIMD vector NAME(multiply_high)(vector a, int b) { /* the high 16 bits */
    return OP(mulhi_epi16)(a, OP(set1_epi16)((short)b));
}
SIMD vector NAME(shift_left)(vector a, int bits) {
    return OP(slli_epi16)(a, bits);
}
SIMD vector NAME(shift_right)(vector a, int bits) { /* of numbers without a sign */
    return OP(srli_epi16)(a, bits);
}
SIMD vector NAME(halve)(vector a) { /* downwards */
    return OP(srai_epi16)(a, 1);
}
SIMD vector NAME(either)(vector a, vector b) {
    return WHOLE(or)(a, b);
}

/* 32-bit numbers in the place of a register of 16-bit ones. */
struct sums {
    vector low, high;
};
SIMD struct sums NAME(products)(vector a, vector b, int of_a, int of_b) { /* a x of_a + b x of_b */
    const vector factors = OP(set1_epi32)((int)((uint32_t)of_b << 16 | (uint16_t)of_a));
    const vector low = OP(madd_epi16)(OP(unpacklo_epi16)(a, b), factors);
    const vector high = OP(madd_epi16)(OP(unpackhi_epi16)(a, b), factors);
    return (struct sums){low, high};
}
SIMD struct sums NAME(add_sums)(struct sums a, struct sums b) {
    return (struct sums){OP(add_epi32)(a.low, b.low), OP(add_epi32)(a.high, b.high)};
}
SIMD struct sums NAME(sub_sums)(struct sums a, struct sums b) {
    return (struct sums){OP(sub_epi32)(a.low, b.low), OP(sub_epi32)(a.high, b.high)};
}
SIMD struct sums NAME(add_number)(struct sums a, int number) {
    const vector all = OP(set1_epi32)(number);
    return (struct sums){OP(add_epi32)(a.low, all), OP(add_epi32)(a.high, all)};
}
SIMD vector NAME(narrow)(struct sums a, int bits) { /* shifted down by so many bits, and saturated to 16 bits */
    return OP(packs_epi32)(OP(srai_epi32)(a.low, bits), OP(srai_epi32)(a.high, bits));
}

/* ---- blocks: one in each 128 bits ---- */

SIMD void NAME(transpose)(vector r[8]) {
    const vector a0 = OP(unpacklo_epi16)(r[0], r[1]), a1 = OP(unpackhi_epi16)(r[0], r[1]);
    const vector a2 = OP(unpacklo_epi16)(r[2], r[3]), a3 = OP(unpackhi_epi16)(r[2], r[3]);
    const vector a4 = OP(unpacklo_epi16)(r[4], r[5]), a5 = OP(unpackhi_epi16)(r[4], r[5]);
    const vector a6 = OP(unpacklo_epi16)(r[6], r[7]), a7 = OP(unpackhi_epi16)(r[6], r[7]);
    const vector b0 = OP(unpacklo_epi32)(a0, a2), b1 = OP(unpackhi_epi32)(a0, a2);
    const vector b2 = OP(unpacklo_epi32)(a1, a3), b3 = OP(unpackhi_epi32)(a1, a3);
    const vector b4 = OP(unpacklo_epi32)(a4, a6), b5 = OP(unpackhi_epi32)(a4, a6);
    const vector b6 = OP(unpacklo_epi32)(a5, a7), b7 = OP(unpackhi_epi32)(a5, a7);
    r[0] = OP(unpacklo_epi64)(b0, b4), r[1] = OP(unpackhi_epi64)(b0, b4);
    r[2] = OP(unpacklo_epi64)(b1, b5), r[3] = OP(unpackhi_epi64)(b1, b5);
    r[4] = OP(unpacklo_epi64)(b2, b6), r[5] = OP(unpackhi_epi64)(b2, b6);
    r[6] = OP(unpacklo_epi64)(b3, b7), r[7] = OP(unpackhi_epi64)(b3, b7);
}
SIMD vector NAME(load_quant)(const uint16_t *row) {
#if WITH_AVX2
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)row));
#else
    return NAME(load)(row);
#endif
}
/* Row `i` of a block, or of each of two that are BLOCK_STRIDE apart; zeros are left in its place. */
SIMD vector NAME(take_row)(int16_t *blocks, int i) {
    __m128i *at = (__m128i *)(blocks + 8 * i);
    const __m128i row = _mm_load_si128(at);
    _mm_store_si128(at, _mm_setzero_si128());
#if WITH_AVX2
    __m128i *other = (__m128i *)(blocks + BLOCK_STRIDE + 8 * i);
    const __m128i other_row = _mm_load_si128(other);
    _mm_store_si128(other, _mm_setzero_si128());
    return _mm256_inserti128_si256(_mm256_castsi128_si256(row), other_row, 1);
#else
    return row;
#endif
}
/* Where a block has no bit set in `lower`, `flat` in place of `full`. */
SIMD vector NAME(choose)(vector lower_is_zero, vector flat, vector full) {
    return WHOLE(or)(WHOLE(and)(lower_is_zero, flat), WHOLE(andnot)(lower_is_zero, full));
}
/* All ones in each block that has no bit set, in the others zeros. */
SIMD vector NAME(blocks_of_zeros)(vector a) {
    vector same = OP(cmpeq_epi32)(a, OP(set1_epi32)(0));
    same = WHOLE(and)(same, OP(shuffle_epi32)(same, 0x4E));
    return WHOLE(and)(same, OP(shuffle_epi32)(same, 0xB1));
}
SIMD int NAME(is_any)(vector mask) {
    return OP(movemask_epi8)(mask) != 0;
}
SIMD int NAME(is_all)(vector mask) {
    return OP(movemask_epi8)(mask) == (LANES == 16 ? -1 : 0xFFFF);
}
/* Columns of samples less 128, saturated, to rows of bytes; of two blocks the second to `second`. */
SIMD void NAME(store_columns)(const vector c[8], uint8_t *first, uint8_t *second, ptrdiff_t stride) {
    const vector c04 = OP(packs_epi16)(c[0], c[4]), c15 = OP(packs_epi16)(c[1], c[5]);
    const vector c26 = OP(packs_epi16)(c[2], c[6]), c37 = OP(packs_epi16)(c[3], c[7]);
    const vector c01 = OP(unpacklo_epi8)(c04, c15), c45 = OP(unpackhi_epi8)(c04, c15);
    const vector c23 = OP(unpacklo_epi8)(c26, c37), c67 = OP(unpackhi_epi8)(c26, c37);
    const vector left_0 = OP(unpacklo_epi16)(c01, c23), left_4 = OP(unpackhi_epi16)(c01, c23); /* rows 0-3, 4-7 */
    const vector right_0 = OP(unpacklo_epi16)(c45, c67), right_4 = OP(unpackhi_epi16)(c45, c67);
    const vector middle = OP(set1_epi8)(-128);
    vector rows[4]; /* two each */
    rows[0] = OP(unpacklo_epi32)(left_0, right_0), rows[1] = OP(unpackhi_epi32)(left_0, right_0);
    rows[2] = OP(unpacklo_epi32)(left_4, right_4), rows[3] = OP(unpackhi_epi32)(left_4, right_4);
    for (int i = 0; i < 4; i++, first += 2 * stride) {
        const vector both = OP(add_epi8)(rows[i], middle);
#if WITH_AVX2
        const __m128i one = _mm256_castsi256_si128(both), two = _mm256_extracti128_si256(both, 1);
        _mm_storel_epi64((__m128i *)second, two);
        _mm_storel_epi64((__m128i *)(second + stride), _mm_unpackhi_epi64(two, two));
        second += 2 * stride;
#else
        const __m128i one = both;
        (void)second;
#endif
        _mm_storel_epi64((__m128i *)first, one);
        _mm_storel_epi64((__m128i *)(first + stride), _mm_unpackhi_epi64(one, one));
    }
}

/* ---- pixels ---- */

SIMD vector NAME(low_bytes)(vector bytes) { /* half of the bytes, as numbers */
    return OP(unpacklo_epi8)(bytes, OP(set1_epi8)(0));
}
SIMD vector NAME(high_bytes)(vector bytes) {
    return OP(unpackhi_epi8)(bytes, OP(set1_epi8)(0));
}
SIMD vector NAME(to_bytes)(vector low, vector high) { /* the way back, saturated */
    return OP(packus_epi16)(low, high);
}
/* 2 LANES pixels. */
SIMD void NAME(store_rgb)(uint8_t *to, vector red, vector green, vector blue) {
#if WITH_AVX2
#define PICK(...) _mm256_broadcastsi128_si256(_mm_setr_epi8(__VA_ARGS__))
    const vector red_1 = PICK(0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1, -1, 5);
    const vector green_1 = PICK(-1, 0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1, -1);
    const vector blue_1 = PICK(-1, -1, 0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1);
    const vector red_2 = PICK(-1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1, 10, -1);
    const vector green_2 = PICK(5, -1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1, 10);
    const vector blue_2 = PICK(-1, 5, -1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1);
    const vector red_3 = PICK(-1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15, -1, -1);
    const vector green_3 = PICK(-1, -1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15, -1);
    const vector blue_3 = PICK(10, -1, -1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15);
#undef PICK
#define MIXED(n) \
    _mm256_or_si256( \
        _mm256_or_si256(_mm256_shuffle_epi8(red, red_##n), _mm256_shuffle_epi8(green, green_##n)), \
        _mm256_shuffle_epi8(blue, blue_##n) \
    )
    const vector first = MIXED(1), second = MIXED(2), third = MIXED(3); /* 16 bytes of either half's 48 */
#undef MIXED
    NAME(store)(to, _mm256_permute2x128_si256(first, second, 0x20));
    NAME(store)(to + 32, _mm256_permute2x128_si256(third, first, 0x30));
    NAME(store)(to + 64, _mm256_permute2x128_si256(second, third, 0x31));
#else
    uint8_t planes[3][16]; /* SSE2 has no instruction that moves bytes about */
    NAME(store)(planes[0], red), NAME(store)(planes[1], green), NAME(store)(planes[2], blue);
    for (int i = 0; i < 16; i++, to += 3)
        to[0] = planes[0][i], to[1] = planes[1][i], to[2] = planes[2][i];
#endif
}

/* ---- bytes ---- */

/* Copies 2 LANES bytes; how many of them come before the first FF. */
SIMD int NAME(copy_to_ff)(const uint8_t *from, uint8_t *to) {
    const vector bytes = NAME(load)(from);
    NAME(store)(to, bytes);
    const uint32_t found = (uint32_t)OP(movemask_epi8)(OP(cmpeq_epi8)(bytes, OP(set1_epi8)(-1)));
    return found ? first_bit(found) : 2 * LANES;
}
