/* The way of a picture through the stages, for the box that is wanted.
 *
 * Without row starts, all MCUs before the box's last row are decoded, in order, and those outside of the box are
 * dropped. With them, decoding begins in the box's first MCU row, and goes on in two rows at once (entropy.c). Inverse
 * DCTs are done of two blocks at a time: neighbours, or those of the two rows.
 *
 * Samples are kept of RING_ROWS MCU rows and no more, so memory is bounded by the width alone: two rows that are being
 * decoded, and the one above, whose last row of pixels waits for the chroma below it. */

#include "crop.h"

#include <stdlib.h>

enum { RING_ROWS = 4 };

struct plane {
    uint8_t *samples; /* row 0 of the ring, column 0 of the range */
    ptrdiff_t stride;
};

/* From .. up to but not including. */
struct range {
    int begin, end;
};

struct crop_decoder {
    struct row_source rows; /* first: it is handed out */
    const struct kernels *kernels;
    struct jpeg_header header;
    struct scan scan;
    struct box box;
    struct range mcu_x, mcu_y; /* what is to be decoded */
    int next_mcu_y;
    struct plane planes[MAX_COMPONENTS];
    uint8_t *wide[2];       /* a row of Cb and of Cr, as wide as luma */
    uint16_t *column_sums;
    uint8_t *strip;         /* room of `strip_rows` rows for rows.pixels */
    int strip_rows;
    struct workspace memory;
    ALIGNED(32) int16_t blocks[2 * MAX_BLOCKS * BLOCK_STRIDE];
    ALIGNED(32) int16_t unwanted[2 * MAX_BLOCKS * BLOCK_STRIDE];
};

struct crop_decoder *new_crop_decoder(const char *kernels) {
    const struct kernels *chosen = choose_kernels(kernels);
    char *memory = chosen ? calloc(1, sizeof(struct crop_decoder) + 64) : NULL;
    if (memory == NULL)
        return NULL;
    char *aligned = memory + 64 - (uintptr_t)memory % 64;
    aligned[-1] = (char)(aligned - memory);
    struct crop_decoder *decoder = (struct crop_decoder *)aligned;
    decoder->kernels = chosen;
    return decoder;
}

void free_crop_decoder(struct crop_decoder *decoder) {
    if (decoder == NULL)
        return;
    free_workspace(&decoder->memory);
    free((char *)decoder - ((char *)decoder)[-1]);
}

/* ---- MCUs ---- */

static uint8_t *samples_at(const struct crop_decoder *d, int component, int mcu_x, int mcu_y) {
    const int h = component ? 1 : d->header.h, v = component ? 1 : d->header.v;
    const struct plane *plane = &d->planes[component];
    return plane->samples + mcu_y % RING_ROWS * 8 * v * plane->stride + (mcu_x - d->mcu_x.begin) * 8 * h;
}

/* Two MCUs' blocks to samples; they alternate in d->blocks. `second` is NULL where only the first is wanted. */
static void transform_mcus(struct crop_decoder *d, int mcu_x, int mcu_y, int second_x, int second_y, int has_second) {
    const struct jpeg_header *header = &d->header;
    for (int b = 0; b < d->scan.plan.blocks; b++) {
        const int c = d->scan.plan.component[b];
        const ptrdiff_t stride = d->planes[c].stride;
        const ptrdiff_t within = c ? 0 : b / header->h * 8 * stride + b % header->h * 8;
        uint8_t *first = samples_at(d, c, mcu_x, mcu_y) + within;
        const uint16_t *quant = header->quant[header->component[c].quant];
        int16_t *blocks = d->blocks + 2 * b * BLOCK_STRIDE;
        if (has_second)
            d->kernels->idct_two(blocks, quant, first, samples_at(d, c, second_x, second_y) + within, stride);
        else /* what the second would overwrite is decoded next, or lies right of the range */
            d->kernels->idct_two(blocks, quant, first, first + 8 * (c ? 1 : header->h), stride);
    }
}

static enum jpeg_status drop_mcus(struct crop_decoder *d, int count) {
    enum jpeg_status status = JPEG_OK;
    for (; count > 0 && status == JPEG_OK; count--)
        status = next_mcu(&d->scan, d->unwanted);
    return status;
}

/* A row from its first MCU on, to where the box ends in it or, where `to_end`, to its end. */
static enum jpeg_status decode_row(struct crop_decoder *d, int mcu_y, int to_end) {
    enum jpeg_status status = drop_mcus(d, d->mcu_x.begin);
    for (int x = d->mcu_x.begin; x < d->mcu_x.end && status == JPEG_OK; x += 2) {
        const int both = x + 1 < d->mcu_x.end;
        status = next_mcu(&d->scan, d->blocks);
        if (status == JPEG_OK && both)
            status = next_mcu(&d->scan, d->blocks + BLOCK_STRIDE);
        if (status == JPEG_OK)
            transform_mcus(d, x, mcu_y, x + 1, mcu_y, both);
    }
    if (status == JPEG_OK && to_end)
        status = drop_mcus(d, d->header.mcus_across - d->mcu_x.end);
    return status;
}

/* Rows mcu_y and mcu_y + 1, from where they begin. */
static enum jpeg_status decode_two_rows(struct crop_decoder *d, int mcu_y) {
    enum jpeg_status status = JPEG_OK;
    for (int x = 0; x < d->mcu_x.begin && status == JPEG_OK; x++)
        status = next_two_mcus(&d->scan, d->unwanted);
    for (int x = d->mcu_x.begin; x < d->mcu_x.end && status == JPEG_OK; x++) {
        status = next_two_mcus(&d->scan, d->blocks);
        if (status == JPEG_OK)
            transform_mcus(d, x, mcu_y, x, mcu_y + 1, 1);
    }
    return status;
}

/* The next MCU row of the box, or the next two, into the ring. */
static enum jpeg_status decode_rows(struct crop_decoder *d) {
    const int y = d->next_mcu_y, more = y + 1 < d->mcu_y.end;
    const int seeks = d->scan.row_starts != NULL, rows = seeks && more ? 2 : 1;
    const int to_end = d->mcu_x.end == d->header.mcus_across || (!seeks && more);
    enum jpeg_status status = JPEG_OK;
    for (int i = 0; seeks && i < rows && status == JPEG_OK; i++)
        status = seek_row(&d->scan, i, y + i);
    if (status == JPEG_OK)
        status = rows == 2 ? decode_two_rows(d, y) : decode_row(d, y, to_end);
    for (int i = 0; i < rows && status == JPEG_OK; i++)
        status = check_row(&d->scan, i, y + i, to_end);
    d->next_mcu_y = y + rows;
    return status;
}

/* ---- rows of pixels ---- */

static int chroma_width(const struct jpeg_header *header) {
    return (header->width + header->h - 1) / header->h;
}

/* The outermost chroma samples are their own neighbours. */
static void extend_chroma(struct crop_decoder *d, int mcu_y) {
    const struct jpeg_header *header = &d->header;
    const int last = chroma_width(header) - 1 - d->mcu_x.begin * 8;
    for (int c = 1; c < header->components; c++) {
        uint8_t *row = samples_at(d, c, d->mcu_x.begin, mcu_y);
        for (int i = 0; i < 8; i++, row += d->planes[c].stride) {
            if (d->mcu_x.begin == 0)
                row[-1] = row[0];
            if (d->mcu_x.end == header->mcus_across)
                row[last + 1] = row[last];
        }
    }
}

static const uint8_t *ring_row(const struct crop_decoder *d, int component, int y) {
    const int rows = RING_ROWS * 8 * (component ? 1 : d->header.v);
    return d->planes[component].samples + y % rows * d->planes[component].stride;
}

/* Row y of a chroma component, n of its samples from `x` on, made as wide as luma's into `out`, or where it lies. libjpeg
 * smooths only components more than two samples wide, but down it always does. */
static const uint8_t *chroma_row(struct crop_decoder *d, int c, int y, int x, int n, uint8_t *out) {
    const struct jpeg_header *header = &d->header;
    const int narrow = chroma_width(header) <= 2;
    const int near_y = header->v == 2 ? y >> 1 : y, last = (header->height + header->v - 1) / header->v - 1;
    int far_y = y & 1 ? near_y + 1 : near_y - 1;
    far_y = far_y < 0 ? 0 : far_y > last ? last : far_y;
    const uint8_t *near_row = ring_row(d, c, near_y) + x, *far_row = ring_row(d, c, far_y) + x;
    if (header->h == 1 && header->v == 1)
        return near_row;
    if (header->h == 1)
        d->kernels->upsample_down(near_row, far_row, n, y & 1 ? 2 : 1, out);
    else if (narrow)
        for (int i = 0; i < 2 * n; i++)
            out[i] = near_row[i / 2];
    else if (header->v == 1)
        d->kernels->upsample_across(near_row, n, out);
    else
        d->kernels->upsample_both(near_row, far_row, n, d->column_sums, out);
    return out;
}

/* Row y of the picture, the box's part of it, to *to. The first pixel may have to be made for the second's sake. */
static void convert_row(struct crop_decoder *d, int y, uint8_t *to) {
    const int h = d->header.h, chroma_x = d->box.left / h, x = chroma_x * h;
    const int n = d->box.left + d->box.width - x, samples = (n + h - 1) / h;
    const uint8_t *luma = ring_row(d, 0, y) + x - d->mcu_x.begin * d->header.mcu_width;
    const uint8_t *chroma[2] = {d->wide[0], d->wide[1]};
    if (d->header.components == 3)
        for (int c = 0; c < 2; c++)
            chroma[c] = chroma_row(d, c + 1, y, chroma_x - d->mcu_x.begin * 8, samples, d->wide[c]);
    d->kernels->to_rgb(luma, chroma[0], chroma[1], n, to);
}

/* struct row_source's `more`. */
static int more_rows(struct row_source *rows, int keep_from) {
    struct crop_decoder *d = (struct crop_decoder *)rows;
    const int first_mcu_y = d->next_mcu_y, mcu_height = d->header.mcu_height;
    if (first_mcu_y >= d->mcu_y.end)
        return JPEG_DAMAGED; /* all rows were given */
    const enum jpeg_status status = decode_rows(d);
    if (status != JPEG_OK)
        return status;
    if (d->header.h == 2)
        for (int y = first_mcu_y; y < d->next_mcu_y; y++)
            extend_chroma(d, y);
    /* The last row of pixels waits for the chroma below, where there is any. */
    int end = d->next_mcu_y * mcu_height - (d->header.v == 2) - d->box.top;
    if (d->next_mcu_y >= d->mcu_y.end)
        end = d->box.height;
    if (end - rows->first > d->strip_rows) {
        const int kept = keep_from < rows->end ? keep_from : rows->end;
        const size_t size = (size_t)(rows->end - kept) * rows->stride;
        memmove(d->strip, d->strip + (size_t)(kept - rows->first) * rows->stride, size);
        rows->first = kept;
        if (end - kept > d->strip_rows)
            return JPEG_NO_MEMORY; /* more rows are kept than `keep` said */
    }
    for (; rows->end < end; rows->end++)
        convert_row(d, d->box.top + rows->end, d->strip + (size_t)(rows->end - rows->first) * rows->stride);
    return JPEG_OK;
}

/* ---- beginning ---- */

/* Which MCUs hold pixels [begin, begin + size) and the chroma samples that those are smoothed from: an even pixel needs
 * the sample before its own, an odd one that behind it. */
static struct range mcu_range(int begin, int size, int whole, int factor) {
    int first = begin, last = begin + size - 1;
    if (factor == 2) {
        first = first / 2 - (first % 2 == 0), last = last / 2 + last % 2;
        whole = (whole + 1) / 2;
    }
    first = first < 0 ? 0 : first, last = last > whole - 1 ? whole - 1 : last;
    return (struct range){first / 8, last / 8 + 1};
}

static void *cut_off(char **memory, size_t size) {
    void *taken = *memory;
    *memory += (size + 63) / 64 * 64;
    return taken;
}

/* Room for samples, a chroma row of each kind, and as many RGB rows as are asked for and come at once. */
static enum jpeg_status prepare_memory(struct crop_decoder *d, int keep) {
    const struct jpeg_header *header = &d->header;
    const size_t across = (size_t)(d->mcu_x.end - d->mcu_x.begin);
    size_t sizes[MAX_COMPONENTS] = {0}, total = 0;
    for (int c = 0; c < header->components; c++) {
        /* A block right of the range may be written, and ROW_ROOM around it read. */
        const size_t stride = across * 8 * (c ? 1 : header->h) + 8 + 2 * ROW_ROOM;
        d->planes[c].stride = (ptrdiff_t)((stride + 31) / 32 * 32);
        sizes[c] = (size_t)d->planes[c].stride * RING_ROWS * 8 * (c ? 1 : header->v) + 3 * ROW_ROOM;
        total += sizes[c] + 64;
    }
    const size_t pixels = across * (size_t)header->mcu_width + 2 * ROW_ROOM;
    const size_t stride = ((size_t)d->box.width * 3 + 3 + 3 * ROW_ROOM + 63) / 64 * 64;
    const int at_once = 2 * header->mcu_height + 1;
    d->strip_rows = keep + at_once < d->box.height ? keep + at_once : d->box.height;
    total += 2 * (pixels + 64) + 2 * pixels + 64 + stride * (size_t)d->strip_rows + 3 * ROW_ROOM + 2 * 64;
    char *memory = reserve(&d->memory, total);
    if (memory == NULL)
        return JPEG_NO_MEMORY;
    memory += -(uintptr_t)memory % 64;
    for (int c = 0; c < header->components; c++)
        d->planes[c].samples = (uint8_t *)cut_off(&memory, sizes[c]) + ROW_ROOM;
    d->wide[0] = cut_off(&memory, pixels), d->wide[1] = cut_off(&memory, pixels);
    d->column_sums = cut_off(&memory, 2 * pixels);
    d->strip = (uint8_t *)memory;
    if (header->components == 1)
        memset(d->wide[0], 128, pixels), memset(d->wide[1], 128, pixels);
    d->rows = (struct row_source){
        .pixels = d->strip + 3 * (d->box.left % header->h), .stride = stride, .more = more_rows,
    };
    return JPEG_OK;
}

/* The row starts of the picture's seek entry; NULL where it is damaged or another picture's. */
static const uint8_t *check_entry(const struct encoded *picture, const struct jpeg_header *header) {
    const uint8_t *entry = picture->seek_entry;
    const size_t length = (size_t)(header->mcu_rows - 1) * ROW_START_BYTES;
    if (header->restart_interval || length == 0 || picture->seek_entry_length != ENTRY_HEAD_BYTES + length)
        return NULL;
    const uint32_t crc = entry[0] | (uint32_t)entry[1] << 8 | (uint32_t)entry[2] << 16 | (uint32_t)entry[3] << 24;
    return crc == crc32_of(entry + ENTRY_HEAD_BYTES, length) ? entry + ENTRY_HEAD_BYTES : NULL;
}

enum jpeg_status open_crop(
    struct crop_decoder *d, const struct encoded *picture, const struct box *box, int keep, struct row_source **rows
) {
    const struct jpeg_header *header = &d->header;
    enum jpeg_status status = read_header(picture->bytes, picture->length, &d->header);
    if (status != JPEG_OK)
        return status;
    if (header->height != picture->height || header->width != picture->width)
        return JPEG_WRONG_SIZE;
    if (box->top < 0 || box->left < 0 || box->height < 1 || box->width < 1 || box->height > header->height - box->top ||
        box->width > header->width - box->left)
        return JPEG_BAD_BOX;
    const uint8_t *starts = NULL;
    if (picture->seek_entry != NULL && (starts = check_entry(picture, header)) == NULL)
        return JPEG_BAD_SEEK;
    d->box = *box;
    d->mcu_x = mcu_range(box->left, box->width, header->width, header->h);
    d->mcu_y = mcu_range(box->top, box->height, header->height, header->v);
    d->next_mcu_y = d->mcu_y.begin;
    memset(d->blocks, 0, sizeof d->blocks);
    status = begin_scan(&d->scan, d->kernels, header, picture->bytes, picture->length, starts);
    if (status == JPEG_OK)
        status = prepare_memory(d, keep);
    for (int y = 0; y < d->mcu_y.begin && starts == NULL && status == JPEG_OK; y++) {
        status = drop_mcus(d, header->mcus_across);
        if (status == JPEG_OK)
            status = check_row(&d->scan, 0, y, 1);
    }
    *rows = &d->rows;
    return status;
}

enum jpeg_status find_row_starts(
    struct crop_decoder *d, const uint8_t *jpeg, size_t jpeg_length, uint8_t *out, size_t room, size_t *length,
    int *height, int *width
) {
    const struct jpeg_header *header = &d->header;
    *length = 0;
    enum jpeg_status status = read_header(jpeg, jpeg_length, &d->header);
    if (status == JPEG_OK)
        status = begin_scan(&d->scan, d->kernels, header, jpeg, jpeg_length, NULL);
    if (status != JPEG_OK)
        return status;
    *height = header->height, *width = header->width;
    if (jpeg_length > UINT32_MAX / 8)
        return JPEG_UNSUPPORTED;
    const size_t starts = header->restart_interval ? 0 : (size_t)(header->mcu_rows - 1) * ROW_START_BYTES;
    if (ENTRY_HEAD_BYTES + starts > room)
        return JPEG_NO_MEMORY;
    d->scan.lanes[0].counts = 1;
    for (int y = 0; y < header->mcu_rows && status == JPEG_OK; y++) {
        if (y > 0 && starts > 0)
            write_row_start(&d->scan, out + ENTRY_HEAD_BYTES + (size_t)(y - 1) * ROW_START_BYTES);
        status = drop_mcus(d, header->mcus_across);
        if (status == JPEG_OK)
            status = check_row(&d->scan, 0, y, 1);
    }
    if (status == JPEG_OK && starts > 0) {
        const uint32_t crc = crc32_of(out + ENTRY_HEAD_BYTES, starts);
        for (int i = 0; i < ENTRY_HEAD_BYTES; i++)
            out[i] = (uint8_t)(crc >> 8 * i);
        *length = ENTRY_HEAD_BYTES + starts;
    }
    return status;
}
