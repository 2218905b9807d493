/* The coded data of a picture as MCUs, one after another or from where a row begins: T.81 B.1.1.5, B.2.1 and F.2.1.3.1.
 *
 * Bytes are taken over a few thousand at a time into a buffer that stays in the first-level cache. */

#include "scan.h"

/* ---- bytes ---- */

static void begin_lane(struct scan *s, int i, const uint8_t *from, const uint8_t *to) {
    struct lane *lane = &s->lanes[i];
    lane->bytes = (struct scan_bytes){.source = from, .source_end = to, .end = lane->buffer};
    lane->counts = 0, lane->dropped = lane->dropped_ff = 0;
    s->readers[i] = (struct bit_reader){.next = lane->buffer, .odd = s->readers[i].odd};
}

static uint64_t count_ff(const uint8_t *from, const uint8_t *to) {
    uint64_t found = 0;
    for (; from < to; from++)
        found += *from == 0xFF;
    return found;
}

/* Bytes for LOOK_AHEAD, or all that there are, with zeros behind. */
static void fetch(struct scan *s, int i) {
    struct lane *lane = &s->lanes[i];
    struct bit_reader *reader = &s->readers[i];
    struct scan_bytes *bytes = &lane->bytes;
    while (!bytes->complete && bytes->end - reader->next < LOOK_AHEAD) {
        /* Eight bytes behind stay, so that those in the reader's bits can be told from those that are used. */
        ptrdiff_t used = reader->next - lane->buffer - 8;
        if (used > 0) {
            if (lane->counts)
                lane->dropped += (uint64_t)used, lane->dropped_ff += count_ff(lane->buffer, lane->buffer + used);
            memmove(lane->buffer, lane->buffer + used, (size_t)(bytes->end - lane->buffer - used));
            bytes->end -= used, reader->next -= used;
        }
        const uint8_t *before = bytes->source;
        const ptrdiff_t left = bytes->source_end - before, room = lane->buffer + LANE_BYTES - SCAN_PADDING - 64 - bytes->end;
        const ptrdiff_t wanted = left < room ? left : room;
        bytes->end = s->kernels->destuff(&bytes->source, before + wanted, s->end, bytes->end);
        bytes->complete = bytes->source < before + wanted || bytes->source >= bytes->source_end;
        memset(bytes->end, 0, SCAN_PADDING);
    }
}

/* Bits that lie before the next to be read, in the lane's buffer. */
static int64_t bits_used(const struct scan *s, int i) {
    return 8 * (int64_t)(s->readers[i].next - s->lanes[i].buffer) - s->readers[i].count;
}

static int64_t bits_left(const struct scan *s, int i) {
    return 8 * (int64_t)(s->lanes[i].bytes.end - s->lanes[i].buffer) - bits_used(s, i);
}

/* Whether an MCU can be read: bytes for it are there, or zeros (SCAN_PADDING) behind the last of them. */
ALWAYS_INLINE int is_ready(struct scan *s, int i) {
    if (LIKELY(s->lanes[i].bytes.end - s->readers[i].next >= LOOK_AHEAD))
        return 1;
    fetch(s, i);
    return bits_left(s, i) >= 0;
}

/* The marker behind the bytes of a lane, after which *at points; -1 where there is none, or bytes before it were not
 * used up (JWRN_EXTRANEOUS_DATA). */
static int marker_behind(struct scan *s, int i, const uint8_t **at) {
    struct scan_bytes *bytes = &s->lanes[i].bytes;
    fetch(s, i);
    if (!bytes->complete || bits_left(s, i) < 0 || bits_left(s, i) >= 8)
        return -1;
    const uint8_t *from = bytes->source;
    if (s->end - from < 2 || *from != 0xFF)
        return -1;
    while (from < s->end && *from == 0xFF)
        from++;
    if (from == s->end)
        return -1;
    *at = from + 1;
    return *from;
}

/* ---- places to go on from ---- */

/* F.2.1.3.1 and B.2.1: predictors begin anew behind each restart marker, which are numbered. */
static enum jpeg_status restart(struct scan *s) {
    const uint8_t *at = NULL;
    if (marker_behind(s, 0, &at) != 0xD0 + (int)(s->restarts++ & 7))
        return JPEG_DAMAGED;
    begin_lane(s, 0, at, s->end);
    memset(s->dc[0], 0, sizeof s->dc[0]);
    s->until_restart = s->header->restart_interval;
    return JPEG_OK;
}

/* The row starts' bytes, of MCU row `mcu_y`. */
static struct row_start read_row_start(const struct scan *s, int mcu_y) {
    struct row_start start = {0};
    if (mcu_y == 0)
        return start;
    const uint8_t *at = s->row_starts + (size_t)(mcu_y - 1) * ROW_START_BYTES;
    start.bit = at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
    for (int c = 0; c < MAX_COMPONENTS; c++)
        start.dc[c] = (int16_t)(at[4 + 2 * c] | at[5 + 2 * c] << 8);
    return start;
}

enum jpeg_status seek_row(struct scan *s, int i, int mcu_y) {
    const struct row_start start = read_row_start(s, mcu_y);
    const size_t length = (size_t)(s->end - s->begin);
    size_t end = length;
    if (mcu_y + 1 < s->header->mcu_rows) {
        const struct row_start next = read_row_start(s, mcu_y + 1);
        if (next.bit < start.bit || ((size_t)next.bit + 7) / 8 > length)
            return JPEG_BAD_SEEK;
        end = ((size_t)next.bit + 7) / 8;
    }
    if (start.bit / 8 > end)
        return JPEG_BAD_SEEK;
    begin_lane(s, i, s->begin + start.bit / 8, s->begin + end);
    fetch(s, i);
    struct bit_reader *reader = &s->readers[i];
    const int within = start.bit & 7;
    reader->bits = load_big_endian(reader->next) << within; /* one byte, less the bits of the row before */
    reader->bits = reader->bits >> (56 + within) << (56 + within);
    reader->count = 8 - within;
    reader->next++;
    for (int c = 0; c < MAX_COMPONENTS; c++)
        s->dc[i][c] = start.dc[c];
    return JPEG_OK;
}

/* ---- MCUs ---- */

/* Whether a row that was decoded to its end ended where the next begins. */
static int ends_at_next_row(const struct scan *s, int i, int mcu_y) {
    if (mcu_y + 1 >= s->header->mcu_rows)
        return 1;
    const struct row_start next = read_row_start(s, mcu_y + 1);
    int same = (bits_used(s, i) & 7) == (next.bit & 7);
    for (int c = 0; c < s->header->components; c++)
        same &= s->dc[i][c] == next.dc[c];
    return same;
}

enum jpeg_status next_mcu(struct scan *s, int16_t *blocks) {
    if (s->header->restart_interval) {
        if (s->until_restart == 0) {
            const enum jpeg_status status = restart(s);
            if (status != JPEG_OK)
                return status;
        }
        s->until_restart--;
    }
    if (!is_ready(s, 0))
        return JPEG_DAMAGED;
    s->kernels->decode_mcu(&s->readers[0], &s->plan, s->dc[0], blocks);
    return JPEG_OK;
}

enum jpeg_status next_two_mcus(struct scan *s, int16_t *blocks) {
    if (!is_ready(s, 0) || !is_ready(s, 1))
        return JPEG_DAMAGED;
    s->kernels->decode_two(s->readers, &s->plan, s->dc, blocks);
    return JPEG_OK;
}

enum jpeg_status check_row(struct scan *s, int i, int mcu_y, int complete) {
    const uint8_t *at = NULL;
    if (s->readers[i].odd || bits_left(s, i) < 0)
        return JPEG_DAMAGED;
    if (!complete)
        return JPEG_OK;
    if (mcu_y + 1 == s->header->mcu_rows) /* the end of the image comes next, and nothing before it */
        return marker_behind(s, i, &at) == 0xD9 ? JPEG_OK : JPEG_DAMAGED;
    return s->row_starts == NULL || ends_at_next_row(s, i, mcu_y) ? JPEG_OK : JPEG_BAD_SEEK;
}

/* ---- beginning ---- */

static enum jpeg_status prepare_dc(struct scan *s, int number) {
    struct huffman_code *made = &s->dc_made[number];
    const struct huffman_code *code = &s->header->dc[number];
    if (memcmp(made, code, sizeof *made) == 0)
        return JPEG_OK;
    made->count = -1; /* until it is */
    const enum jpeg_status status = make_dc_table(&s->dc_tables[number], code);
    if (status == JPEG_OK)
        *made = *code;
    return status;
}

static enum jpeg_status prepare_ac(struct scan *s, int number) {
    struct huffman_code *made = &s->ac_made[number];
    const struct huffman_code *code = &s->header->ac[number];
    if (memcmp(made, code, sizeof *made) == 0)
        return JPEG_OK;
    made->count = -1;
    const enum jpeg_status status = make_ac_table(&s->ac_tables[number], code);
    if (status == JPEG_OK)
        *made = *code;
    return status;
}

enum jpeg_status begin_scan(
    struct scan *s, const struct kernels *kernels, const struct jpeg_header *header, const uint8_t *jpeg, size_t length,
    const uint8_t *row_starts
) {
    s->kernels = kernels, s->header = header, s->row_starts = row_starts;
    s->begin = jpeg + header->scan, s->end = jpeg + length;
    s->restarts = 0, s->until_restart = header->restart_interval;
    s->readers[0].odd = s->readers[1].odd = 0;
    memset(s->dc, 0, sizeof s->dc);
    begin_lane(s, 0, s->begin, s->end);
    s->plan.blocks = 0;
    for (int c = 0; c < header->components; c++) {
        const int dc = header->component[c].dc, ac = header->component[c].ac;
        enum jpeg_status status = prepare_dc(s, dc);
        if (status != JPEG_OK || (status = prepare_ac(s, ac)) != JPEG_OK)
            return status;
        for (int i = c ? 1 : header->h * header->v; i > 0; i--) {
            const int b = s->plan.blocks++;
            s->plan.component[b] = c, s->plan.dc[b] = &s->dc_tables[dc], s->plan.ac[b] = &s->ac_tables[ac];
        }
    }
    return JPEG_OK;
}

uint32_t crc32_of(const uint8_t *bytes, size_t length) {
    static const uint32_t of_nibble[16] = {
        0x00000000, 0x1DB71064, 0x3B6E20C8, 0x26D930AC, 0x76DC4190, 0x6B6B51F4, 0x4DB26158, 0x5005713C,
        0xEDB88320, 0xF00F9344, 0xD6D6A3E8, 0xCB61B38C, 0x9B64C2B0, 0x86D3D2D4, 0xA00AE278, 0xBDBDF21C,
    };
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < length; i++) {
        crc ^= bytes[i];
        crc = crc >> 4 ^ of_nibble[crc & 15];
        crc = crc >> 4 ^ of_nibble[crc & 15];
    }
    return ~crc;
}

void write_row_start(const struct scan *s, uint8_t *to) {
    const struct lane *lane = &s->lanes[0];
    const int64_t used = bits_used(s, 0);
    const uint64_t bytes = lane->dropped + (uint64_t)(used / 8);
    const uint64_t stuffed = lane->dropped_ff + count_ff(lane->buffer, lane->buffer + used / 8);
    const uint64_t bit = 8 * (bytes + stuffed) + (uint64_t)(used % 8);
    for (int i = 0; i < 4; i++)
        to[i] = (uint8_t)(bit >> 8 * i);
    for (int c = 0; c < MAX_COMPONENTS; c++)
        to[4 + 2 * c] = (uint8_t)s->dc[0][c], to[5 + 2 * c] = (uint8_t)((uint32_t)s->dc[0][c] >> 8);
}
