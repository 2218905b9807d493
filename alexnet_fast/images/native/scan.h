/* The coded data of a picture, MCU by MCU. */

#ifndef ALEXNET_FAST_SCAN_H
#define ALEXNET_FAST_SCAN_H

#include "jpeg.h"

enum {
    LOOK_AHEAD = MAX_MCU_BYTES + 16, /* an MCU, and what a reader looks ahead */
    CHUNK = 4096,                    /* bytes taken over at a time: the first-level cache has so many left beside tables */
    LANE_BYTES = LOOK_AHEAD + CHUNK + 64 + SCAN_PADDING,
};

/* A place in the scan where decoding goes on. */
struct lane {
    struct scan_bytes bytes;
    uint8_t buffer[LANE_BYTES];
    int counts;                   /* whether these are kept: */
    uint64_t dropped, dropped_ff; /* bytes, and FFs among them, that were in the buffer before its first */
};

/* Two lanes, for two rows that are decoded at once. Lane 0 alone takes restart markers into account. */
struct scan {
    const struct kernels *kernels;
    const struct jpeg_header *header;
    const uint8_t *begin, *end;
    const uint8_t *row_starts; /* NULL: not known */
    uint32_t restarts;         /* so far */
    int until_restart;         /* MCUs */
    struct mcu_plan plan;
    struct bit_reader readers[2];
    int32_t dc[2][MAX_COMPONENTS];
    struct lane lanes[2];
    /* Tables, and what they were made from: pictures of one encoder mostly share them. */
    struct dc_table dc_tables[4];
    struct ac_table ac_tables[4];
    struct huffman_code dc_made[4], ac_made[4];
};

/* Where an MCU row begins, as a seek index has it (docs/format.md): ROW_START_BYTES, lowest byte first. */
struct row_start {
    uint32_t bit;               /* from the scan's first, stuffed zeros included */
    int16_t dc[MAX_COMPONENTS]; /* predictors (F.2.1.3.1) */
};
/* An entry of a seek index: CRC-32 of the rest, and the starts of MCU rows 1, 2, ... */
enum { ROW_START_BYTES = 10, ENTRY_HEAD_BYTES = 4 };

/* CRC-32 as zlib computes it. */
uint32_t crc32_of(const uint8_t *bytes, size_t length);

/* Begin with the first MCU of a picture whose header was read. `row_starts` are of MCU rows 1, 2, ...; NULL where they are
 * not known or there are restart markers. */
enum jpeg_status begin_scan(
    struct scan *scan, const struct kernels *kernels, const struct jpeg_header *header, const uint8_t *jpeg,
    size_t length, const uint8_t *row_starts
);

/* Go on in a lane with the first MCU of a row. */
enum jpeg_status seek_row(struct scan *scan, int lane, int mcu_y);

/* The next MCU of lane 0, into every second of `blocks`; or of both lanes, into all of them. */
enum jpeg_status next_mcu(struct scan *scan, int16_t *blocks);
enum jpeg_status next_two_mcus(struct scan *scan, int16_t *blocks);

/* What was wrong with MCUs that were read in a lane, all of row mcu_y. `complete`: up to the end of the row. */
enum jpeg_status check_row(struct scan *scan, int lane, int mcu_y, int complete);

/* Where lane 0 is, ROW_START_BYTES; wants its `counts` since the scan began. */
void write_row_start(const struct scan *scan, uint8_t *to);

#endif
