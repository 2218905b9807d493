/* Antialiased bilinear resize of 8-bit RGB, the filter of torchvision's Resize and RandomResizedCrop. */

#ifndef ALEXNET_FAST_RESIZE_H
#define ALEXNET_FAST_RESIZE_H

#include <stddef.h>
#include <stdint.h>

/* Bytes that may be read past the last pixel of a row. */
#define ROW_SLACK 32

/* Memory that a resize works in, kept from image to image; all zero to begin with. */
struct workspace {
    void *memory;
    size_t size;
};

struct box {
    int top, left, height, width;
};

/* Pixels of an image: row y begins at pixels + y * stride, and ROW_SLACK bytes behind each may be read. */
struct region {
    const uint8_t *pixels;
    size_t stride;
    int height, width;
};

/* Where the output lies: the region is scaled to height x width, and side x side pixels are cut at top, left. */
struct target {
    int height, width;
    int top, left;
    int side;
    int mirrored;
};

enum kind { AS_UINT8 = 1, AS_BFLOAT16 = 2, AS_FLOAT32 = 4 }; /* bytes of a value */

/* What becomes of a row of side * 3 values: nothing where they stay uint8, else bias + scale * value, each of them. */
struct finish {
    enum kind kind;
    const float *scale, *bias;
};

/* Write target->side rows of target->side RGB pixels to `out`, without gaps. 0, or -1 where memory ran out. */
int resize_region(
    struct workspace *work, const struct region *region, const struct target *target, const struct finish *finish,
    void *out
);

/* `size` bytes or more, NULL where memory ran out; what was in them is lost when they have to grow. */
void *reserve(struct workspace *work, size_t size);

void free_workspace(struct workspace *work);

#endif
