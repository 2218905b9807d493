/* One image of a batch, from its bytes or pixels to its place of the output; knows nothing of Python. */

#include <stdlib.h>
#include <string.h>

#include "cut.h"

struct cutter *new_cutter(const char *kernels) {
    struct cutter *cutter = calloc(1, sizeof *cutter);
    if (cutter == NULL)
        return NULL;
    cutter->avx2 = strcmp(kernels, "avx2") == 0;
    cutter->decoder = new_crop_decoder(kernels);
    if (cutter->decoder == NULL) {
        free(cutter);
        return NULL;
    }
    return cutter;
}

void free_cutter(struct cutter *cutter) {
    if (cutter == NULL)
        return;
    free_crop_decoder(cutter->decoder);
    free_workspace(&cutter->resize);
    free_workspace(&cutter->pixels);
    free(cutter);
}

/* Whether the box lies in the image, and the output in the scaled box. */
static int fits(const struct crop_row *crop, int side) {
    return crop->top >= 0 && crop->left >= 0 && crop->box_h > 0 && crop->box_w > 0 &&
           crop->box_h <= crop->height && crop->box_w <= crop->width && crop->top <= crop->height - crop->box_h &&
           crop->left <= crop->width - crop->box_w && crop->scaled_h >= side && crop->scaled_w >= side &&
           crop->out_top >= 0 && crop->out_left >= 0 && crop->out_top <= crop->scaled_h - side &&
           crop->out_left <= crop->scaled_w - side;
}

static enum jpeg_status resize_rows(
    struct cutter *cutter, const struct cuts *cuts, size_t i, struct row_source *rows
) {
    const struct crop_row *crop = &cuts->crops[i];
    const struct target target = {
        .height = crop->scaled_h, .width = crop->scaled_w, .top = crop->out_top, .left = crop->out_left,
        .side = cuts->side, .mirrored = cuts->flips ? cuts->flips[i] : 0,
    };
    struct finish finish = cuts->finish;
    finish.avx2 = cutter->avx2;
    void *place = (char *)cuts->out + i * (size_t)cuts->side * (size_t)cuts->side * 3 * finish.kind;
    return resize_box(&cutter->resize, rows, crop->box_h, crop->box_w, &target, &finish, place);
}

enum jpeg_status cut_jpeg(struct cutter *cutter, const struct cuts *cuts, size_t i, struct encoded jpeg) {
    const struct crop_row *crop = &cuts->crops[i];
    if (!fits(crop, cuts->side))
        return JPEG_BAD_BOX;
    const struct box box = {.top = crop->top, .left = crop->left, .height = crop->box_h, .width = crop->box_w};
    struct row_source *rows;
    jpeg.height = crop->height;
    jpeg.width = crop->width;
    const enum jpeg_status status =
        open_crop(cutter->decoder, &jpeg, &box, rows_kept(crop->box_h, crop->scaled_h), &rows);
    return status == JPEG_OK ? resize_rows(cutter, cuts, i, rows) : status;
}

enum jpeg_status cut_pixels(
    struct cutter *cutter, const struct cuts *cuts, size_t i, const struct pixels *pixels, int64_t number
) {
    const struct crop_row *crop = &cuts->crops[i];
    if (number < 0 || (uint64_t)number >= pixels->count || crop->height != pixels->height ||
        crop->width != pixels->width || !fits(crop, cuts->side))
        return JPEG_BAD_BOX;
    const size_t stride = (size_t)pixels->width * 3, bytes = (size_t)pixels->height * stride;
    const uint8_t *image = pixels->first + (size_t)number * bytes;
    if ((pixels->count - (size_t)number) * bytes < bytes + ROW_SLACK) { /* behind the last image lies nothing */
        uint8_t *copy = reserve(&cutter->pixels, bytes + ROW_SLACK);
        if (copy == NULL)
            return JPEG_NO_MEMORY;
        memset(copy + bytes, 0, ROW_SLACK);
        image = memcpy(copy, image, bytes);
    }
    struct row_source rows = {
        .pixels = image + (size_t)crop->top * stride + 3 * (size_t)crop->left, .stride = stride, .end = crop->box_h,
    };
    return resize_rows(cutter, cuts, i, &rows);
}

enum jpeg_status decode_box(struct cutter *cutter, const struct encoded *jpeg, const struct box *box, uint8_t *out) {
    struct row_source *rows;
    enum jpeg_status status = open_crop(cutter->decoder, jpeg, box, 1, &rows);
    for (int y = 0; y < box->height && status == JPEG_OK; y++, out += 3 * (size_t)box->width) {
        while (rows->end <= y && status == JPEG_OK)
            status = rows->more(rows, y);
        if (status == JPEG_OK)
            memcpy(out, rows->pixels + (size_t)(y - rows->first) * rows->stride, 3 * (size_t)box->width);
    }
    return status;
}
