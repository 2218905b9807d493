/* The decoder as a plain library for tools/fuzz_decoder.py, and as a target of libFuzzer. */

#include <stdlib.h>

#include "crop.h"

struct crop_decoder *fuzz_new(const char *kernels) {
    return new_crop_decoder(kernels);
}

static int decode_box(
    struct crop_decoder *decoder, const struct encoded *image, const struct box *box, int keep, uint8_t *out
) {
    struct row_source *rows;
    int status = open_crop(decoder, image, box, keep, &rows);
    for (int y = 0; y < box->height && status == JPEG_OK; y++) {
        while (rows->end <= y && status == JPEG_OK)
            status = rows->more(rows, y);
        if (status == JPEG_OK)
            memcpy(out + 3 * (size_t)y * box->width, rows->pixels + (y - rows->first) * rows->stride, 3 * box->width);
    }
    return status;
}

/* `plan`: height and width of the image; top, left, height, width of the box; rows kept. Status of the decoder. */
int fuzz_decode(
    struct crop_decoder *decoder, const uint8_t *jpeg, size_t length, const int32_t *plan, const uint8_t *starts,
    size_t starts_length, uint8_t *out
) {
    /* In memory of just its size, so that the sanitizer sees what is read around it. */
    uint8_t *copy = malloc(length + 1), *starts_copy = starts ? malloc(starts_length + 1) : NULL;
    memcpy(copy, jpeg, length);
    if (starts)
        memcpy(starts_copy, starts, starts_length);
    const struct encoded picture = {copy, length, plan[0], plan[1], starts_copy, starts_length};
    const struct box box = {.top = plan[2], .left = plan[3], .height = plan[4], .width = plan[5]};
    const int status = decode_box(decoder, &picture, &box, plan[6], out);
    free(copy);
    free(starts_copy);
    return status;
}

/* Decodes every box of an image of up to 17 x 17 and compares it with the slice of `whole`: how many there were; or
 * less than zero, with the box in `wrong`. `starts` may be NULL. */
int fuzz_all_boxes(
    struct crop_decoder *decoder, const uint8_t *jpeg, size_t length, int height, int width, const uint8_t *starts,
    size_t starts_length, const uint8_t *whole, int32_t *wrong
) {
    const struct encoded image = {jpeg, length, height, width, starts, starts_length};
    uint8_t out[3 * 17 * 17];
    int count = 0;
    for (int top = 0; top < height; top++)
        for (int left = 0; left < width; left++)
            for (int h = 1; h <= height - top; h++)
                for (int w = 1; w <= width - left; w++, count++) {
                    const struct box box = {.top = top, .left = left, .height = h, .width = w};
                    int same = decode_box(decoder, &image, &box, 1 + count % 3, out) == JPEG_OK;
                    for (int y = 0; y < h && same; y++)
                        same = memcmp(out + 3 * y * w, whole + 3 * ((top + y) * width + left), 3 * w) == 0;
                    if (!same) {
                        memcpy(wrong, (int32_t[]){top, left, h, w}, 4 * sizeof *wrong);
                        return -1;
                    }
                }
    return count;
}

int fuzz_row_starts(struct crop_decoder *decoder, const uint8_t *jpeg, size_t length, uint8_t *out, size_t *out_length) {
    int height, width;
    return find_row_starts(decoder, jpeg, length, out, 81920, out_length, &height, &width);
}

/* libFuzzer has no oracle: it looks for what the sanitizers see. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct crop_decoder *decoder;
    static uint8_t out[3 * 64 * 64], starts[81920];
    size_t starts_length = 0;
    struct jpeg_header header;
    if (decoder == NULL)
        decoder = new_crop_decoder(NULL);
    if (read_header(data, size, &header) != JPEG_OK)
        return 0;
    const int height = header.height < 64 ? header.height : 64, width = header.width < 64 ? header.width : 64;
    const int32_t plan[7] = {header.height, header.width, header.height - height, header.width - width, height, width, 1};
    fuzz_decode(decoder, data, size, plan, NULL, 0, out);
    if (fuzz_row_starts(decoder, data, size, starts, &starts_length) == JPEG_OK && starts_length)
        fuzz_decode(decoder, data, size, plan, starts, starts_length, out);
    return 0;
}
