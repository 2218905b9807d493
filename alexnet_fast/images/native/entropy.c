/* Entropy-coded data to coefficients: T.81 B.1.1.5 (stuffing) and F.2.2 (decoding).
 *
 * The loops below have no checks of their input's end. They may rely on this: SCAN_PADDING zeros lie behind the bytes,
 * whoever calls looks before each MCU that one begins within the bytes, and an MCU takes MAX_MCU_BYTES at most. A
 * coefficient is written through `natural_order`, which leads nowhere but into its block or to the one place behind it. */

#include "kernels.h"

/* ---- stuffing ---- */

/* What a data byte FF or the tail of the data is done with; 0 where a marker or the end is met. */
ALWAYS_INLINE int destuff_byte(const uint8_t **from, const uint8_t *end, uint8_t **to) {
    const uint8_t byte = **from;
    if (byte == 0xFF) {
        if (end - *from < 2 || (*from)[1] != 0)
            return 0;
        ++*from;
    }
    ++*from;
    *(*to)++ = byte;
    return 1;
}

uint8_t *destuff_plain(const uint8_t **source, const uint8_t *limit, const uint8_t *end, uint8_t *out) {
    const uint8_t *from = *source;
    while (from < limit && destuff_byte(&from, end, &out))
        ;
    *source = from;
    return out;
}

/* ---- bits ---- */

/* At least 56 bits are there then, and behind them as many more as fit. */
ALWAYS_INLINE void refill(struct bit_reader *reader) {
    reader->bits |= load_big_endian(reader->next) >> reader->count;
    reader->next += (63 - reader->count) >> 3;
    reader->count |= 56;
}

ALWAYS_INLINE void drop(struct bit_reader *reader, int bits) {
    reader->bits <<= bits;
    reader->count -= bits;
}

/* The value that the first `size` of `bits` stand for: RECEIVE and EXTEND, figures F.12 and F.17. No branch: it would be
 * taken or not at random. */
ALWAYS_INLINE int32_t extend(uint64_t bits, int size) {
    const uint32_t value = (uint32_t)(bits >> 1 >> (63 - size));
    const uint32_t negative = (uint32_t)(bits >> 63) - 1; /* all ones where the first bit is 0 */
    return (int32_t)(value + (negative & ((UINT32_MAX << size) + 1)));
}

struct symbol {
    int length, value; /* value -1: there is no such code */
};

/* DECODE of figure F.16, from codes of `length` bits on. */
static NOT_INLINE struct symbol find_symbol(uint64_t bits, const struct long_codes *codes, int length) {
    while ((int64_t)(bits >> (64 - length)) > codes->last[length])
        length++;
    if (length > 16)
        return (struct symbol){16, -1};
    const int code = (int)(bits >> (64 - length));
    return (struct symbol){length, codes->symbols[(codes->offset[length] + code) & 255]};
}

/* ---- blocks ---- */

/* F.2.2.1. Leaves 33 bits of 64. */
ALWAYS_INLINE int32_t decode_dc(struct bit_reader *reader, const struct dc_table *table) {
    refill(reader);
    const uint32_t entry = table->entries[reader->bits >> (64 - DC_BITS)];
    int used = entry & 255, length = entry >> 8 & 255, size = (int)(entry >> 16);
    if (UNLIKELY(entry == 0)) {
        const struct symbol symbol = find_symbol(reader->bits, &table->codes, DC_BITS + 1);
        length = symbol.length, size = symbol.value < 0 ? 0 : symbol.value, used = length + size;
        reader->odd |= symbol.value < 0; /* libjpeg-turbo goes on with a difference of 0 (JWRN_HUFF_BAD_CODE) */
    }
    const int32_t difference = extend(reader->bits << length, size);
    drop(reader, used);
    return difference;
}

/* A step of F.2.2.2 that is not in the table as a whole; 1 where it ends the block. */
ALWAYS_INLINE int long_step(
    struct bit_reader *reader, const struct ac_table *table, uint64_t entry, int16_t *block, unsigned *last
) {
    int length = entry >> 8 & 255, size = entry >> 16 & 255;
    unsigned at = *last + (entry >> 24 & 255);
    refill(reader);
    if (entry == 0) {
        const struct symbol symbol = find_symbol(reader->bits, &table->codes, AC_BITS + 1);
        const int none = symbol.value < 0, value = none ? 0 : symbol.value;
        length = symbol.length, size = value & 15;
        at = *last + (size == 0 && value != 0xF0 ? END_OF_BLOCK : (unsigned)(value >> 4) + 1);
        reader->odd |= none; /* libjpeg-turbo goes on with the next block, here and there without a warning */
    }
    block[natural_order[at]] = (int16_t)extend(reader->bits << length, size);
    reader->odd |= at > 63 && at < END_OF_BLOCK;
    drop(reader, length + size);
    *last = at;
    return at >= 63;
}

ALWAYS_INLINE uint64_t look_up(const struct bit_reader *reader, const struct ac_table *table) {
    return table->entries[reader->bits >> (64 - AC_BITS)];
}

/* One or two coefficients (F.2.2.2, figure F.13), those of the entry that was looked up; 1 where the block is complete.
 * `last` is the zigzag position of the last coefficient. Takes up to 11 bits, or has more brought. */
ALWAYS_INLINE int step(
    struct bit_reader *reader, const struct ac_table *table, uint64_t entry, int16_t *block, unsigned *last
) {
    const int used = entry & 255;
    if (UNLIKELY(used == 0))
        return long_step(reader, table, entry, block, last);
    const unsigned first = *last + (entry >> 8 & 255), second = *last + (entry >> 16 & 255);
    block[natural_order[second]] = (int16_t)(entry >> 48);
    block[natural_order[first]] = (int16_t)(entry >> 32);
    if (LIKELY(second < 63)) {
        drop(reader, used);
        *last = second;
        return 0;
    }
    if (UNLIKELY(first == 63)) { /* what else the lookup showed is of the next block */
        drop(reader, entry >> 24 & 255);
        return 1;
    }
    /* Zeros that lead past the block (libjpeg-turbo does not warn of it), unless this is an end of block. */
    reader->odd |= (first > 63 && first < END_OF_BLOCK) | (first < 63 && second > 63 && second < END_OF_BLOCK);
    drop(reader, used);
    return 1;
}

/* The coefficients behind `last`, where at least 33 bits are there. An entry is looked up before the bits for the one
 * behind it are brought, so that neither waits for the other: 5 to 9% less time (AMD EPYC). */
ALWAYS_INLINE void decode_ac(struct bit_reader *reader, const struct ac_table *table, int16_t *block, unsigned last) {
    uint64_t entry = look_up(reader, table);
    for (;;) {
        if (step(reader, table, entry, block, &last))
            return;
        entry = look_up(reader, table);
        if (step(reader, table, entry, block, &last))
            return;
        entry = look_up(reader, table);
        refill(reader);
    }
}

ALWAYS_INLINE void predict(struct bit_reader *reader, int32_t *dc, int32_t difference, int16_t *block) {
    *dc = (int32_t)((uint32_t)*dc + (uint32_t)difference); /* may wrap in a damaged picture */
    reader->odd |= ((uint32_t)*dc + 32768) >> 16;
    block[0] = (int16_t)*dc;
}

ALWAYS_INLINE void decode_mcu(struct bit_reader *from, const struct mcu_plan *plan, int32_t *dc, int16_t *block) {
    struct bit_reader reader = *from;
    for (int b = 0; b < plan->blocks; b++, block += 2 * BLOCK_STRIDE) {
        predict(&reader, &dc[plan->component[b]], decode_dc(&reader, plan->dc[b]), block);
        decode_ac(&reader, plan->ac[b], block, 0);
    }
    *from = reader;
}

/* The chains of table lookups of two blocks do not wait for each other, so a processor does both at once: 21 to 25%
 * less time than one after the other (AMD EPYC). */
ALWAYS_INLINE void decode_two(
    struct bit_reader *readers, const struct mcu_plan *plan, int32_t (*dc)[MAX_COMPONENTS], int16_t *block
) {
    struct bit_reader one = readers[0], two = readers[1];
    for (int b = 0; b < plan->blocks; b++, block += 2 * BLOCK_STRIDE) {
        const struct ac_table *table = plan->ac[b];
        int16_t *other = block + BLOCK_STRIDE;
        unsigned last_one = 0, last_two = 0;
        predict(&one, &dc[0][plan->component[b]], decode_dc(&one, plan->dc[b]), block);
        predict(&two, &dc[1][plan->component[b]], decode_dc(&two, plan->dc[b]), other);
        uint64_t entry_one = look_up(&one, table), entry_two = look_up(&two, table);
        for (;;) {
            if (step(&one, table, entry_one, block, &last_one))
                goto first_done;
            entry_one = look_up(&one, table);
            if (step(&two, table, entry_two, other, &last_two))
                goto second_done;
            entry_two = look_up(&two, table);
            if (step(&one, table, entry_one, block, &last_one))
                goto first_done;
            entry_one = look_up(&one, table);
            if (step(&two, table, entry_two, other, &last_two))
                goto second_done;
            entry_two = look_up(&two, table);
            refill(&one);
            refill(&two);
        }
    first_done:
        refill(&two);
        decode_ac(&two, table, other, last_two);
        continue;
    second_done:
        refill(&one);
        decode_ac(&one, table, block, last_one);
    }
    readers[0] = one, readers[1] = two;
}

void decode_mcu_plain(struct bit_reader *reader, const struct mcu_plan *plan, int32_t *dc, int16_t *blocks) {
    decode_mcu(reader, plan, dc, blocks);
}

void decode_two_plain(
    struct bit_reader *readers, const struct mcu_plan *plan, int32_t (*dc)[MAX_COMPONENTS], int16_t *blocks
) {
    decode_two(readers, plan, dc, blocks);
}

#define STAGE "entropy_vector.h"
#include "each_vector.h"
