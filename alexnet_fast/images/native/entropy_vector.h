/* The destuffing of entropy.c in vectors, and its loops again for processors whose shifts take their count from any register
 * (BMI2): included once for each kind of vectors. */

/* Whole vectors while there are such; byte by byte at an FF and near the end. */
SIMD_KERNEL uint8_t *NAME(destuff)(const uint8_t **source, const uint8_t *limit, const uint8_t *end, uint8_t *out) {
    const uint8_t *from = *source;
    while (from < limit) {
        if (LIKELY(end - from >= 2 * LANES)) {
            const int clean = NAME(copy_to_ff)(from, out);
            from += clean, out += clean;
            if (clean == 2 * LANES)
                continue;
        }
        if (!destuff_byte(&from, end, &out))
            break;
    }
    *source = from;
    return out;
}

#if LANES == 16

SIMD_KERNEL void NAME(decode_mcu)(
    struct bit_reader *reader, const struct mcu_plan *plan, int32_t *dc, int16_t *blocks
) {
    decode_mcu(reader, plan, dc, blocks);
}

SIMD_KERNEL void NAME(decode_two)(
    struct bit_reader *readers, const struct mcu_plan *plan, int32_t (*dc)[MAX_COMPONENTS], int16_t *blocks
) {
    decode_two(readers, plan, dc, blocks);
}

#endif
