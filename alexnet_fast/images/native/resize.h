/* Antialiased bilinear resize of 8-bit RGB, the filter of torchvision's Resize and RandomResizedCrop. */

#ifndef ALEXNET_FAST_RESIZE_H
#define ALEXNET_FAST_RESIZE_H

#include <stddef.h>
#include <stdint.h>

/* Bytes that may be read past the last pixel of a row. */
#define ROW_SLACK 32

/* Memory that a resize works in, kept from picture to picture; all zero to begin with. */
struct workspace {
    void *memory;
    size_t size;
};

struct box {
    int top, left, height, width;
};

/* Rows of RGB pixels that come one after another. Those from `first` up to but not including `end` are there: row y at
 * pixels + (y - first) * stride, and ROW_SLACK bytes behind each may be read. */
struct row_source {
    const uint8_t *pixels;
    size_t stride;
    int first, end;
    /* Brings rows behind `end`; those before `keep_from` may go. 0, or why there are none (enum jpeg_status). NULL where
     * all are there. */
    int (*more)(struct row_source *rows, int keep_from);
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
    int avx2; /* whether to work with it */
};

/* Resize a box of height x width pixels; write target->side rows of target->side RGB pixels to `out`, without gaps. 0, or
 * what the row source said, or JPEG_NO_MEMORY. */
int resize_box(
    struct workspace *work, struct row_source *rows, int height, int width, const struct target *target,
    const struct finish *finish, void *out
);

/* Rows of a box so high that are kept at a time while it is resized to `target_height` rows. */
int rows_kept(int height, int target_height);

/* `size` bytes or more, NULL where memory ran out; what was in them is lost when they have to grow. */
void *reserve(struct workspace *work, size_t size);

void free_workspace(struct workspace *work);

#endif
