/* Decodes a box of a JPEG with libjpeg-turbo. */

#ifndef ALEXNET_FAST_REGION_H
#define ALEXNET_FAST_REGION_H

#include "resize.h"

struct decoder;

/* NULL where memory ran out. */
struct decoder *new_decoder(void);

void free_decoder(struct decoder *decoder);

/* Decode a box of an image of height x width pixels; `region` is valid until the next call. 0, or -1 where this is no
 * plain baseline JPEG of that size, is damaged, or memory ran out: whoever asked has to find out, and say, which. */
int decode_region(
    struct decoder *decoder, const uint8_t *jpeg, size_t length, int height, int width, const struct box *box,
    struct region *region
);

#endif
