/* Decoding tables from the lengths of codes: T.81 annex C, figures C.1, C.2 and F.15.
 *
 * A table is looked up by the next DC_BITS or AC_BITS bits. An entry of a DC table, from its lowest byte up:
 *
 *     bits of code and value | bits of the code | bits of the value (the category of table F.1)
 *
 * An entry of an AC table holds one or two coefficients, those whose codes and values fit into the bits looked up:
 *
 *     bits of all | zeros before the first + 1 | the same up to the second | bits of the first | first | second
 *
 * in 8, 8, 8, 8, 16 and 16 bits. Where only one fits, the second is a zero at the place of the first, which is written
 * before it. An end of block (figure F.13) is a step of END_OF_BLOCK, past every block. Where a code fits but not its
 * value, "bits of all" is 0, and there follow bits of the code, of the value, and zeros + 1.
 *
 * Two coefficients a lookup are found in most lookups at the usual qualities: entropy decoding takes a fifth less than
 * with one (AMD EPYC, full-size ImageNet). */

#include "jpeg.h"

/* Code and length of each symbol, and `codes`. */
static enum jpeg_status assign_codes(
    const struct huffman_code *code, struct long_codes *codes, uint16_t *values, uint8_t *sizes
) {
    int symbol = 0;
    int32_t next = 0;
    for (int length = 1; length <= 16; length++, next <<= 1) {
        codes->offset[length] = symbol - next;
        for (int i = 0; i < code->lengths[length]; i++, symbol++, next++)
            values[symbol] = (uint16_t)next, sizes[symbol] = (uint8_t)length;
        codes->last[length] = code->lengths[length] ? next - 1 : -1;
        /* No code may be all ones (annex C); libjpeg-turbo: JERR_BAD_HUFF_TABLE. */
        if (code->lengths[length] && next >= 1 << length)
            return JPEG_DAMAGED;
    }
    codes->last[17] = INT32_MAX; /* where the search for a code that does not exist ends */
    codes->offset[17] = 0;
    memcpy(codes->symbols, code->symbols, sizeof codes->symbols);
    return JPEG_OK;
}

enum jpeg_status make_dc_table(struct dc_table *table, const struct huffman_code *code) {
    uint16_t values[256];
    uint8_t sizes[256];
    for (int i = 0; i < code->count; i++)
        if (code->symbols[i] > 15) /* JERR_BAD_HUFF_TABLE */
            return JPEG_DAMAGED;
    const enum jpeg_status status = assign_codes(code, &table->codes, values, sizes);
    if (status != JPEG_OK)
        return status;
    memset(table->entries, 0, sizeof table->entries);
    for (int i = 0; i < code->count && sizes[i] <= DC_BITS; i++) {
        const uint32_t category = code->symbols[i];
        const uint32_t entry = (sizes[i] + category) | (uint32_t)sizes[i] << 8 | category << 16;
        const int free_bits = DC_BITS - sizes[i];
        for (int j = 0; j < 1 << free_bits; j++)
            table->entries[(values[i] << free_bits) + j] = entry;
    }
    return JPEG_OK;
}

/* The value that the `size` lowest of `bits` stand for: EXTEND of figure F.12. */
static int extend(int bits, int size) {
    return size == 0 ? 0 : bits < 1 << (size - 1) ? bits - (1 << size) + 1 : bits;
}

static int step_of(int symbol) {
    const int run = symbol >> 4, size = symbol & 15;
    return size == 0 && run != 15 ? END_OF_BLOCK : run + 1;
}

enum jpeg_status make_ac_table(struct ac_table *table, const struct huffman_code *code) {
    enum { MASK = (1 << AC_BITS) - 1 };
    uint16_t values[256];
    uint8_t sizes[256];
    uint16_t single[1 << AC_BITS] = {0}; /* by the next bits: symbol, and bits of its code above it */
    const enum jpeg_status status = assign_codes(code, &table->codes, values, sizes);
    if (status != JPEG_OK)
        return status;
    for (int i = 0; i < code->count && sizes[i] <= AC_BITS; i++) {
        const int free_bits = AC_BITS - sizes[i];
        for (int j = 0; j < 1 << free_bits; j++)
            single[(values[i] << free_bits) + j] = (uint16_t)(sizes[i] << 8 | code->symbols[i]);
    }
    for (int bits = 0; bits <= MASK; bits++) {
        const int length = single[bits] >> 8, symbol = single[bits] & 255, size = symbol & 15;
        const int step = step_of(symbol), used = length + size;
        if (length == 0) {
            table->entries[bits] = 0;
            continue;
        }
        if (used > AC_BITS) {
            table->entries[bits] = (uint64_t)length << 8 | (uint64_t)size << 16 | (uint64_t)step << 24;
            continue;
        }
        const int first = extend(bits >> (AC_BITS - used) & ((1 << size) - 1), size);
        int second = 0, steps = step, all = used;
        const int next = single[bits << used & MASK], next_size = next & 15, next_used = used + (next >> 8) + next_size;
        if (step != END_OF_BLOCK && next != 0 && next_used <= AC_BITS) {
            second = extend(bits >> (AC_BITS - next_used) & ((1 << next_size) - 1), next_size);
            steps += step_of(next & 255), all = next_used;
        }
        table->entries[bits] = (uint64_t)all | (uint64_t)step << 8 | (uint64_t)steps << 16 | (uint64_t)used << 24 |
                               (uint64_t)(uint16_t)first << 32 | (uint64_t)(uint16_t)second << 48;
    }
    return JPEG_OK;
}
