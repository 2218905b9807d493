#include "region.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <jpeglib.h>

#ifndef LIBJPEG_TURBO_VERSION_NUMBER
#error "this is not libjpeg-turbo, which alone can decode a part of a row"
#endif

struct decoder {
    struct jpeg_decompress_struct info;
    struct jpeg_error_mgr errors;
    jmp_buf give_up;
    int created;
    struct workspace rows;
};

static void on_error(j_common_ptr info) {
    longjmp(((struct decoder *)info->client_data)->give_up, 1);
}

static void on_message(j_common_ptr info, int level) {
    if (level < 0) /* the data are damaged, but decoding could go on with something made up */
        info->err->num_warnings++;
}

static int create(struct decoder *decoder) {
    if (setjmp(decoder->give_up))
        return -1;
    jpeg_create_decompress(&decoder->info);
    decoder->created = 1;
    return 0;
}

struct decoder *new_decoder(void) {
    struct decoder *decoder = calloc(1, sizeof *decoder);
    if (decoder == NULL)
        return NULL;
    decoder->info.err = jpeg_std_error(&decoder->errors);
    decoder->errors.error_exit = on_error;
    decoder->errors.emit_message = on_message;
    decoder->info.client_data = decoder;
    if (create(decoder) < 0) {
        free_decoder(decoder);
        return NULL;
    }
    return decoder;
}

void free_decoder(struct decoder *decoder) {
    if (decoder == NULL)
        return;
    if (decoder->created)
        jpeg_destroy_decompress(&decoder->info);
    free_workspace(&decoder->rows);
    free(decoder);
}

static int readable(const struct jpeg_decompress_struct *info, int height, int width) {
    if ((int)info->image_height != height || (int)info->image_width != width)
        return 0;
    if (info->progressive_mode || info->arith_code || info->data_precision != 8)
        return 0;
    return info->jpeg_color_space == JCS_YCbCr || info->jpeg_color_space == JCS_GRAYSCALE;
}

int decode_region(
    struct decoder *decoder, const uint8_t *jpeg, size_t length, int height, int width, const struct box *box,
    struct region *region
) {
    struct jpeg_decompress_struct *info = &decoder->info;
    if (setjmp(decoder->give_up)) {
        jpeg_abort_decompress(info);
        return -1;
    }
    jpeg_mem_src(info, jpeg, (unsigned long)length);
    jpeg_read_header(info, TRUE);
    if (!readable(info, height, width)) {
        jpeg_abort_decompress(info);
        return -1;
    }
    info->out_color_space = JCS_RGB;
    info->dct_method = JDCT_ISLOW;
    info->do_fancy_upsampling = TRUE;
    jpeg_start_decompress(info);

    /* A pixel more on either side: the outermost chroma of what is decoded has no neighbour to be smoothed with. */
    const int end = box->left + box->width;
    JDIMENSION x = (JDIMENSION)(box->left > 0 ? box->left - 1 : 0);
    JDIMENSION across = (JDIMENSION)(end < width ? end + 1 : width) - x;
    if ((int)across < width)
        jpeg_crop_scanline(info, &x, &across); /* moves x left to where a block begins */
    if (box->top > 0)
        jpeg_skip_scanlines(info, (JDIMENSION)box->top);

    /* libjpeg-turbo writes rows that begin at a multiple of 32 past the cache, and the resize would wait for them. */
    const size_t stride = ((size_t)info->output_width * 3 + ROW_SLACK + 63) / 64 * 64;
    uint8_t *memory = reserve(&decoder->rows, stride * box->height + 64 + ROW_SLACK);
    if (memory == NULL) {
        jpeg_abort_decompress(info);
        return -1;
    }
    uint8_t *pixels = memory + (16 - (uintptr_t)memory % 32 + 32) % 32;
    const JDIMENSION last = (JDIMENSION)(box->top + box->height);
    while (info->output_scanline < last) {
        JSAMPROW rows[16];
        const JDIMENSION at = info->output_scanline - (JDIMENSION)box->top, left = last - info->output_scanline;
        const JDIMENSION count = left < 16 ? left : 16;
        for (JDIMENSION i = 0; i < count; i++)
            rows[i] = pixels + (at + i) * stride;
        jpeg_read_scanlines(info, rows, count);
    }
    const int damaged = decoder->errors.num_warnings > 0;
    jpeg_abort_decompress(info);
    if (damaged)
        return -1;
    region->pixels = pixels + 3 * (size_t)(box->left - (int)x);
    region->stride = stride;
    region->height = box->height;
    region->width = box->width;
    return 0;
}
