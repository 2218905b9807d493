/* A baseline JPEG decoder for crops: the stages of a picture's way, and what they hand to each other.
 *
 *     headers.c   bytes          -> struct jpeg_header    T.81 annex B
 *     huffman.c   code lengths   -> decoding tables       T.81 annex C, F.2.2.3
 *     entropy.c   scan bytes     -> coefficients          T.81 B.1.1.5, F.2.2
 *     idct.c      coefficients   -> samples               T.81 A.3.3, A.3.4
 *     colour.c    samples        -> RGB rows              T.81 A.1.1; JFIF 1.02 for the colours
 *     crop.c      all of it, for the box of a picture that is wanted
 *     resize.c    RGB rows       -> the resized crop
 *     cut.c       an image of a batch, all the way
 *     module.c    what Python calls: many images at a time
 *
 * It decodes what nearly every photograph is: 8 bits, Huffman codes, one scan, grey or YCbCr in 4:4:4, 4:2:2, 4:4:0 or
 * 4:2:0, with or without restart markers. Pixels equal libjpeg-turbo's (its accurate integer transform and smooth
 * upsampling) to the bit. Whatever is not that, or odd in any way, is JPEG_UNSUPPORTED or JPEG_DAMAGED, and is for
 * libjpeg-turbo to decode or to refuse.
 *
 * Units. A pixel is of the picture; a sample is of one component, of which 4:2:0 has one Cb and one Cr for 2 x 2 pixels;
 * a block is 8 x 8 samples; an MCU is the least number of blocks that cover whole pixels: 4:2:0 has 4 luma blocks, one
 * Cb and one Cr, 16 x 16 pixels. So a 4:2:0 picture of 50 x 37 pixels is 4 x 3 MCUs; its Cb is 25 x 19 samples, kept in
 * 4 x 3 blocks. Pixel (row 20, column 33) is luma sample (20, 33), in MCU (1, 2), there in block (0, 0) at (4, 1); its
 * Cb is smoothed from samples (10, 16) and its nearest neighbours (9, 16), (10, 15) and (9, 15). */

#ifndef ALEXNET_FAST_JPEG_H
#define ALEXNET_FAST_JPEG_H

#include <stddef.h>
#include <stdint.h>

#include "compiler.h"

enum jpeg_status {
    JPEG_OK = 0,
    JPEG_UNSUPPORTED, /* maybe a good picture, of a kind that is left to libjpeg-turbo */
    JPEG_DAMAGED,     /* breaks the rules of a kind that is decoded here; libjpeg-turbo may make something of it */
    JPEG_WRONG_SIZE,  /* not of the height and width that it should have */
    JPEG_BAD_BOX,     /* the box does not lie in the picture, or the output not in the resized box */
    JPEG_BAD_SEEK,    /* the row starts that came with the picture are not of it */
    JPEG_NO_MEMORY,
};

enum {
    MAX_COMPONENTS = 3,
    MAX_BLOCKS = 6,           /* of an MCU: 4:2:0 */
    MAX_SIDE = 65500,         /* pixels; libjpeg's limit */
    MOST_PIXELS_A_BYTE = 512, /* a Huffman code has a bit at least, and a block of 64 pixels takes one: hostile if more */
    BLOCK_STRIDE = 80,        /* int16 from block to block: 64, one that takes what is not to be kept, and no more of use */
    /* At most 64 x (16 bits of code + 15 of value) for a block. */
    MAX_BLOCK_BYTES = 64 * (16 + 15) / 8,
    MAX_MCU_BYTES = MAX_BLOCKS * MAX_BLOCK_BYTES,
    /* Zeros behind the bytes of a scan: an MCU may begin at their end, and a reader looks 8 bytes ahead. */
    SCAN_PADDING = MAX_MCU_BYTES + 64,
};

/* ---- headers.c ---- */

struct huffman_code {
    uint8_t lengths[17]; /* how many codes have so many bits; [0] is 0 */
    uint8_t symbols[256];
    int count; /* of symbols; 0: not defined */
};

struct jpeg_component {
    int quant, dc, ac; /* numbers of its tables, 0 to 3 */
};

struct jpeg_header {
    int height, width, components;
    int h, v; /* luma samples for a chroma sample, across and down: 1 or 2 */
    int mcu_width, mcu_height; /* pixels */
    int mcus_across, mcu_rows;
    int restart_interval; /* MCUs; 0: none */
    size_t scan; /* where the coded data begin */
    struct jpeg_component component[MAX_COMPONENTS];
    uint16_t quant[4][64]; /* in natural order, rows of 8 */
    uint8_t has_quant[4];
    struct huffman_code dc[4], ac[4];
};

enum jpeg_status read_header(const uint8_t *jpeg, size_t length, struct jpeg_header *header);

/* Natural position of zigzag position k (figure A.6); 64 and more, up to 255, lead to 64, outside of the block. */
extern const uint8_t natural_order[256];

/* ---- huffman.c ---- */

/* Bits that are looked up: two tables of 8 KiB and a picture's block stay in a first-level cache of 32 KiB beside the data;
 * 11 bits took 4% longer without an index and as long with one (AMD EPYC). END_OF_BLOCK is a step past the last coefficient of every block. The greatest sum of steps from within a block, over
 * two entries of one lookup, is 62 + 16 + 128, which `natural_order` still has. */
enum { DC_BITS = 8, AC_BITS = 10, END_OF_BLOCK = 128 };

/* Canonical codes of each length, for those that are longer than a lookup (figure F.16). */
struct long_codes {
    int32_t last[18];   /* the greatest code of so many bits, -1 where there is none */
    int32_t offset[18]; /* symbol number less code */
    uint8_t symbols[256];
};

struct dc_table {
    uint32_t entries[1 << DC_BITS]; /* see huffman.c; 0: a longer code */
    struct long_codes codes;
};

struct ac_table {
    uint64_t entries[1 << AC_BITS]; /* see huffman.c; 0: a longer code */
    struct long_codes codes;
};

/* JPEG_DAMAGED where the lengths make no prefix code that libjpeg-turbo takes. */
enum jpeg_status make_dc_table(struct dc_table *table, const struct huffman_code *code);
enum jpeg_status make_ac_table(struct ac_table *table, const struct huffman_code *code);

/* ---- entropy.c ---- */

/* The bytes of a scan, or of a part of it, with the stuffed zeros taken out (B.1.1.5). */
struct scan_bytes {
    const uint8_t *source, *source_end; /* what has not been taken over yet */
    uint8_t *end;                       /* of what has: SCAN_PADDING zeros lie there */
    int complete;                       /* there is no more before a marker or the end of the data */
};

struct bit_reader {
    uint64_t bits;       /* the next ones, highest first */
    int count;           /* at least so many of them are there */
    const uint8_t *next; /* the first byte that is not in them */
    uint32_t odd;        /* not 0: a code that does not exist, a coefficient past the 63rd, a DC value past 16 bits */
};

/* What the blocks of an MCU are decoded with, in their order (A.2.3). */
struct mcu_plan {
    int blocks;
    int component[MAX_BLOCKS];
    const struct dc_table *dc[MAX_BLOCKS];
    const struct ac_table *ac[MAX_BLOCKS];
};

/* ---- what each kind of processor does in its own way ---- */

struct kernels {
    const char *name;

    /* Take over bytes from *source, at most up to `limit`, without stuffed zeros; stops before a marker. `end` is that
     * of the data. Returns the end of what was written to `out`, behind which up to 32 bytes more may be. */
    uint8_t *(*destuff)(const uint8_t **source, const uint8_t *limit, const uint8_t *end, uint8_t *out);

    /* Decode one MCU: coefficients into every second of zeroed blocks that are BLOCK_STRIDE apart, as `idct_two` takes
     * them; `dc` are its predictors. */
    void (*decode_mcu)(struct bit_reader *reader, const struct mcu_plan *plan, int32_t *dc, int16_t *blocks);

    /* The same of two MCUs from two places at once; their blocks alternate. */
    void (*decode_two)(
        struct bit_reader *readers, const struct mcu_plan *plan, int32_t (*dc)[MAX_COMPONENTS], int16_t *blocks
    );

    /* Two blocks (aligned to 16 bytes) to samples, 8 rows of 8 each; clears the blocks. */
    void (*idct_two)(int16_t *blocks, const uint16_t *quant, uint8_t *first, uint8_t *second, ptrdiff_t stride);

    /* Chroma rows to rows as wide as luma's: n samples in, 2 n or n out. in[-1] and in[n] are neighbours; ROW_ROOM bytes
     * before and behind may be read, twice as many behind written. `column_sums` is room for n + 64 numbers. */
    void (*upsample_across)(const uint8_t *in, int n, uint8_t *out);
    void (*upsample_down)(const uint8_t *near_row, const uint8_t *far_row, int n, int bias, uint8_t *out);
    void (*upsample_both)(const uint8_t *near_row, const uint8_t *far_row, int n, uint16_t *column_sums, uint8_t *out);

    /* n pixels, and up to ROW_ROOM - 1 more behind. */
    void (*to_rgb)(const uint8_t *y, const uint8_t *cb, const uint8_t *cr, int n, uint8_t *rgb);
};

/* Whether AVX2 and what always came with it are there, and may be used. */
int has_avx2(void);

/* The kernels of that name ("plain", "sse2", "avx2", "neon"), or the best that run here where it is NULL; NULL where
 * there are none of that name here. */
const struct kernels *choose_kernels(const char *name);

/* Samples or pixels of a row that kernels may read or write around it. */
enum { ROW_ROOM = 32 };

#endif
