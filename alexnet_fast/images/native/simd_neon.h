/* What idct_vector.h and colour_vector.h are written in, for NEON (64-bit Arm). See simd_x86.h. */

#define NAME(function) function##_neon
#define SIMD ALWAYS_INLINE
#define SIMD_KERNEL
#define vector int16x8_t
#define sums sums_neon
#define LANES 8

SIMD vector NAME(load)(const void *from) {
    return vreinterpretq_s16_u8(vld1q_u8((const uint8_t *)from));
}
SIMD void NAME(store)(void *to, vector a) {
    vst1q_u8((uint8_t *)to, vreinterpretq_u8_s16(a));
}
SIMD vector NAME(splat)(int value) {
    return vdupq_n_s16((int16_t)value);
}
SIMD vector NAME(widen)(const uint8_t *from) {
    return vreinterpretq_s16_u16(vmovl_u8(vld1_u8(from)));
}
SIMD vector NAME(add)(vector a, vector b) {
    return vaddq_s16(a, b);
}
SIMD vector NAME(sub)(vector a, vector b) {
    return vsubq_s16(a, b);
}
SIMD vector NAME(multiply)(vector a, vector b) {
    return vmulq_s16(a, b);
}
SIMD vector NAME(multiply_high)(vector a, int b) {
    const int32x4_t low = vmull_n_s16(vget_low_s16(a), (int16_t)b), high = vmull_n_s16(vget_high_s16(a), (int16_t)b);
    return vcombine_s16(vshrn_n_s32(low, 16), vshrn_n_s32(high, 16));
}
SIMD vector NAME(shift_left)(vector a, int bits) {
    return vshlq_s16(a, vdupq_n_s16((int16_t)bits));
}
SIMD vector NAME(shift_right)(vector a, int bits) {
    return vreinterpretq_s16_u16(vshlq_u16(vreinterpretq_u16_s16(a), vdupq_n_s16((int16_t)-bits)));
}
SIMD vector NAME(halve)(vector a) {
    return vshrq_n_s16(a, 1);
}
SIMD vector NAME(either)(vector a, vector b) {
    return vorrq_s16(a, b);
}

struct sums {
    int32x4_t low, high;
};
SIMD struct sums NAME(products)(vector a, vector b, int of_a, int of_b) {
    const int32x4_t low = vmull_n_s16(vget_low_s16(a), (int16_t)of_a), high = vmull_n_s16(vget_high_s16(a), (int16_t)of_a);
    return (struct sums){
        vmlal_n_s16(low, vget_low_s16(b), (int16_t)of_b), vmlal_n_s16(high, vget_high_s16(b), (int16_t)of_b)
    };
}
SIMD struct sums NAME(add_sums)(struct sums a, struct sums b) {
    return (struct sums){vaddq_s32(a.low, b.low), vaddq_s32(a.high, b.high)};
}
SIMD struct sums NAME(sub_sums)(struct sums a, struct sums b) {
    return (struct sums){vsubq_s32(a.low, b.low), vsubq_s32(a.high, b.high)};
}
SIMD struct sums NAME(add_number)(struct sums a, int number) {
    const int32x4_t all = vdupq_n_s32(number);
    return (struct sums){vaddq_s32(a.low, all), vaddq_s32(a.high, all)};
}
SIMD vector NAME(narrow)(struct sums a, int bits) {
    const int32x4_t down = vdupq_n_s32(-bits);
    return vcombine_s16(vqmovn_s32(vshlq_s32(a.low, down)), vqmovn_s32(vshlq_s32(a.high, down)));
}

/* ---- blocks ---- */

#define ZIP(type, which, a, b) \
    vreinterpretq_s16_##type(vzip##which##q_##type(vreinterpretq_##type##_s16(a), vreinterpretq_##type##_s16(b)))

SIMD void NAME(transpose)(vector r[8]) {
    const vector a0 = vzip1q_s16(r[0], r[1]), a1 = vzip2q_s16(r[0], r[1]);
    const vector a2 = vzip1q_s16(r[2], r[3]), a3 = vzip2q_s16(r[2], r[3]);
    const vector a4 = vzip1q_s16(r[4], r[5]), a5 = vzip2q_s16(r[4], r[5]);
    const vector a6 = vzip1q_s16(r[6], r[7]), a7 = vzip2q_s16(r[6], r[7]);
    const vector b0 = ZIP(s32, 1, a0, a2), b1 = ZIP(s32, 2, a0, a2), b2 = ZIP(s32, 1, a1, a3), b3 = ZIP(s32, 2, a1, a3);
    const vector b4 = ZIP(s32, 1, a4, a6), b5 = ZIP(s32, 2, a4, a6), b6 = ZIP(s32, 1, a5, a7), b7 = ZIP(s32, 2, a5, a7);
    r[0] = ZIP(s64, 1, b0, b4), r[1] = ZIP(s64, 2, b0, b4), r[2] = ZIP(s64, 1, b1, b5), r[3] = ZIP(s64, 2, b1, b5);
    r[4] = ZIP(s64, 1, b2, b6), r[5] = ZIP(s64, 2, b2, b6), r[6] = ZIP(s64, 1, b3, b7), r[7] = ZIP(s64, 2, b3, b7);
}
SIMD vector NAME(load_quant)(const uint16_t *row) {
    return NAME(load)(row);
}
SIMD vector NAME(take_row)(int16_t *blocks, int i) {
    const vector row = vld1q_s16(blocks + 8 * i);
    vst1q_s16(blocks + 8 * i, vdupq_n_s16(0));
    return row;
}
SIMD vector NAME(choose)(vector lower_is_zero, vector flat, vector full) {
    return vbslq_s16(vreinterpretq_u16_s16(lower_is_zero), flat, full);
}
SIMD vector NAME(blocks_of_zeros)(vector a) {
    return vdupq_n_s16(vmaxvq_u16(vreinterpretq_u16_s16(a)) ? 0 : -1);
}
SIMD int NAME(is_any)(vector mask) {
    return vgetq_lane_s16(mask, 0) != 0;
}
SIMD int NAME(is_all)(vector mask) {
    return vgetq_lane_s16(mask, 0) != 0;
}
SIMD void NAME(store_columns)(const vector c[8], uint8_t *first, uint8_t *second, ptrdiff_t stride) {
    vector r[8];
    (void)second;
    memcpy(r, c, sizeof r);
    NAME(transpose)(r);
    for (int i = 0; i < 8; i++)
        vst1_u8(first + i * stride, vadd_u8(vreinterpret_u8_s8(vqmovn_s16(r[i])), vdup_n_u8(128)));
}

/* ---- pixels ---- */

SIMD vector NAME(low_bytes)(vector bytes) {
    return vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(vreinterpretq_u8_s16(bytes))));
}
SIMD vector NAME(high_bytes)(vector bytes) {
    return vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(vreinterpretq_u8_s16(bytes))));
}
SIMD vector NAME(to_bytes)(vector low, vector high) {
    return vreinterpretq_s16_u8(vcombine_u8(vqmovun_s16(low), vqmovun_s16(high)));
}
SIMD void NAME(store_rgb)(uint8_t *to, vector red, vector green, vector blue) {
    const uint8x16x3_t colours = {{
        vreinterpretq_u8_s16(red), vreinterpretq_u8_s16(green), vreinterpretq_u8_s16(blue),
    }};
    vst3q_u8(to, colours);
}

/* ---- bytes ---- */

SIMD int NAME(copy_to_ff)(const uint8_t *from, uint8_t *to) {
    const uint8x16_t bytes = vld1q_u8(from);
    vst1q_u8(to, bytes);
    const uint8x16_t same = vceqq_u8(bytes, vdupq_n_u8(255));
    /* Four bits of each byte's answer, since Arm has no instruction for one. */
    const uint64_t found = vget_lane_u64(vreinterpret_u64_u8(vshrn_n_u16(vreinterpretq_u16_u8(same), 4)), 0);
    if (found == 0)
        return 2 * LANES;
    return first_bit((uint32_t)found) < 32 ? first_bit((uint32_t)found) / 4 : 8 + first_bit((uint32_t)(found >> 32)) / 4;
}
