/* A box of a JPEG as RGB rows, some rows at a time. */

#ifndef ALEXNET_FAST_CROP_H
#define ALEXNET_FAST_CROP_H

#include "jpeg.h"
#include "resize.h"
#include "scan.h"

/* Memory and tables that are kept from picture to picture; not for two threads at once. */
struct crop_decoder;

/* `kernels` as in `choose_kernels`, NULL for the best. NULL where memory ran out or there are no such. */
struct crop_decoder *new_crop_decoder(const char *kernels);
void free_crop_decoder(struct crop_decoder *decoder);

/* A picture, and what is known of it. */
struct encoded {
    const uint8_t *bytes;
    size_t length;
    int height, width;
    const uint8_t *seek_entry; /* of a seek index; NULL: none */
    size_t seek_entry_length;
};

/* Begin with a picture. *rows gives the rows of the box one after another, as many at a time as `keep` asks for at least
 * (struct row_source); valid until the next call. */
enum jpeg_status open_crop(
    struct crop_decoder *decoder, const struct encoded *picture, const struct box *box, int keep,
    struct row_source **rows
);

/* Decode the whole picture, but to no pixels. Writes its seek entry to `out`, of `room` bytes; its length to *length, 0 for
 * a picture of one MCU row or with restart markers. JPEG_NO_MEMORY where it does not fit. */
enum jpeg_status find_row_starts(
    struct crop_decoder *decoder, const uint8_t *jpeg, size_t jpeg_length, uint8_t *out, size_t room, size_t *length,
    int *height, int *width
);

#endif
