/* The decoder as a plain library for tools/fuzz_decoder.py, and as a target of libFuzzer. */

#include <stdlib.h>

#include "crop.h"

struct crop_decoder *fuzz_new(const char *kernels) {
    return new_crop_decoder(kernels);
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
    struct row_source *rows;
    int status = open_crop(decoder, &picture, &box, plan[6], &rows);
    for (int y = 0; y < box.height && status == JPEG_OK; y++) {
        while (rows->end <= y && status == JPEG_OK)
            status = rows->more(rows, y);
        if (status == JPEG_OK)
            memcpy(out + 3 * (size_t)y * box.width, rows->pixels + (y - rows->first) * rows->stride, 3 * box.width);
    }
    free(copy);
    free(starts_copy);
    return status;
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
