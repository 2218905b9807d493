/* One image of a batch: its box decoded or taken, resized, mirrored and finished, into its place of the output. */

#ifndef ALEXNET_FAST_CUT_H
#define ALEXNET_FAST_CUT_H

#include "crop.h"

/* What one thread decodes and resizes with. */
struct cutter {
    struct crop_decoder *decoder;
    struct workspace resize, pixels;
    int avx2;
};

/* `kernels` is a name that `choose_kernels` knows. NULL where memory ran out. */
struct cutter *new_cutter(const char *kernels);
void free_cutter(struct cutter *cutter);

/* A row of the crop plan, int32 each: images/geometry.py's CropPlan. */
struct crop_row {
    int32_t height, width;           /* of the image */
    int32_t top, left, box_h, box_w; /* the box in it */
    int32_t scaled_h, scaled_w;      /* what the box is resized to */
    int32_t out_top, out_left;       /* where in that the output lies */
};

/* What is done to the images of a batch, and where they go. */
struct cuts {
    const struct crop_row *crops;
    const uint8_t *flips; /* which are mirrored; NULL: none */
    int side;
    struct finish finish;
    void *out; /* side * side RGB values of finish.kind for each image, without gaps */
};

/* Images of one size, one behind the other. */
struct pixels {
    const uint8_t *first;
    size_t count;
    int height, width;
};

/* Cut image i of the batch: a JPEG, of which the height and width are taken from its row of the plan, or one of `pixels`.
 * Images of a batch are independent of each other: what fails leaves its place as it is, or half written. */
enum jpeg_status cut_jpeg(struct cutter *cutter, const struct cuts *cuts, size_t i, struct encoded jpeg);
enum jpeg_status cut_pixels(
    struct cutter *cutter, const struct cuts *cuts, size_t i, const struct pixels *pixels, int64_t number
);

/* Decode a box at its own size, to box->height * box->width RGB pixels without gaps. */
enum jpeg_status decode_box(struct cutter *cutter, const struct encoded *jpeg, const struct box *box, uint8_t *out);

#endif
