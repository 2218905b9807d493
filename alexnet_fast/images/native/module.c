/* alexnet_fast.native._native: images in, resized crops out, a lot at a time and without the GIL. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <time.h>

#include "resize.h"
#ifdef WITH_JPEG
#include "region.h"
#endif

/* What is to be done with n images; every array is C-contiguous. */
struct lot {
    Py_buffer boxes;   /* int32 (n, 4): top, left, height, width */
    Py_buffer scaled;  /* int32 (n, 2): height and width that the box is resized to */
    Py_buffer offsets; /* int32 (n, 2): top and left of the output in that */
    Py_buffer flips;   /* bool (n,), or none */
    Py_buffer scale;   /* float32 (side * 3,), or none */
    Py_buffer bias;    /* the same */
    Py_buffer out;     /* (n, side, side, 3) of values of 1, 2 or 4 bytes */
    Py_ssize_t n;
    int side;
};

static void release_lot(struct lot *lot) {
    PyBuffer_Release(&lot->boxes);
    PyBuffer_Release(&lot->scaled);
    PyBuffer_Release(&lot->offsets);
    PyBuffer_Release(&lot->flips);
    PyBuffer_Release(&lot->scale);
    PyBuffer_Release(&lot->bias);
    PyBuffer_Release(&lot->out);
}

/* Takes hold of boxes, scaled, offsets, flips, scale, bias and out; -1 with an exception set. */
static int acquire_lot(struct lot *lot, Py_ssize_t n, PyObject *const *args) {
    memset(lot, 0, sizeof *lot);
    if (PyObject_GetBuffer(args[0], &lot->boxes, PyBUF_C_CONTIGUOUS) < 0 ||
        PyObject_GetBuffer(args[1], &lot->scaled, PyBUF_C_CONTIGUOUS) < 0 ||
        PyObject_GetBuffer(args[2], &lot->offsets, PyBUF_C_CONTIGUOUS) < 0 ||
        (args[3] != Py_None && PyObject_GetBuffer(args[3], &lot->flips, PyBUF_C_CONTIGUOUS) < 0) ||
        (args[4] != Py_None && PyObject_GetBuffer(args[4], &lot->scale, PyBUF_C_CONTIGUOUS) < 0) ||
        (args[5] != Py_None && PyObject_GetBuffer(args[5], &lot->bias, PyBUF_C_CONTIGUOUS) < 0) ||
        PyObject_GetBuffer(args[6], &lot->out, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) < 0) {
        release_lot(lot);
        return -1;
    }
    const Py_buffer *out = &lot->out;
    const Py_ssize_t row = out->ndim == 4 ? out->shape[1] * 12 : 0, wanted = out->itemsize == AS_UINT8 ? 0 : row;
    if (out->ndim != 4 || (out->itemsize != AS_UINT8 && out->itemsize != AS_BFLOAT16 && out->itemsize != AS_FLOAT32) ||
        (lot->scale.obj ? lot->scale.len : 0) != wanted || (lot->bias.obj ? lot->bias.len : 0) != wanted || out->shape[0] != n || out->shape[1] != out->shape[2] ||
        out->shape[3] != 3 || lot->boxes.len != n * 16 || lot->scaled.len != n * 8 || lot->offsets.len != n * 8 ||
        (lot->flips.obj && lot->flips.len != n)) {
        release_lot(lot);
        PyErr_SetString(PyExc_ValueError, "arrays do not fit each other, or the number of images");
        return -1;
    }
    lot->n = n, lot->side = (int)out->shape[1];
    return 0;
}

static struct box box_of(const struct lot *lot, Py_ssize_t i) {
    const int32_t *b = (const int32_t *)lot->boxes.buf + 4 * i;
    return (struct box){.top = b[0], .left = b[1], .height = b[2], .width = b[3]};
}

static struct target target_of(const struct lot *lot, Py_ssize_t i) {
    const int32_t *scaled = (const int32_t *)lot->scaled.buf + 2 * i;
    const int32_t *offset = (const int32_t *)lot->offsets.buf + 2 * i;
    return (struct target){
        .height = scaled[0], .width = scaled[1], .top = offset[0], .left = offset[1], .side = lot->side,
        .mirrored = lot->flips.obj ? ((const uint8_t *)lot->flips.buf)[i] : 0,
    };
}

static struct finish finish_of(const struct lot *lot) {
    return (struct finish){.kind = (enum kind)lot->out.itemsize, .scale = lot->scale.buf, .bias = lot->bias.buf};
}

static void *place_of(const struct lot *lot, Py_ssize_t i) {
    return (char *)lot->out.buf + (size_t)i * lot->side * lot->side * 3 * lot->out.itemsize;
}

/* Whether the box lies in an image of height x width, and the output in the scaled box. */
static int fits(const struct box *b, const struct target *t, int height, int width) {
    return b->top >= 0 && b->left >= 0 && b->height > 0 && b->width > 0 && b->height <= height && b->width <= width &&
           b->top <= height - b->height && b->left <= width - b->width && t->side > 0 && t->height >= t->side &&
           t->width >= t->side && t->top >= 0 && t->left >= 0 && t->top <= t->height - t->side &&
           t->left <= t->width - t->side;
}

enum outcome { DONE, NOT_DECODED, BAD_BOX, NO_MEMORY };

static PyObject *fail(enum outcome outcome, Py_ssize_t i) {
    if (outcome == NO_MEMORY)
        return PyErr_NoMemory();
    return PyErr_Format(PyExc_ValueError, "image %zd: it or its box is not where it should be", i);
}

/* ---- images that are pixels already ---- */

static enum outcome cut_one(
    const Py_buffer *pixels, int64_t number, const struct lot *lot, Py_ssize_t i, struct workspace *work,
    struct workspace *copies
) {
    const int height = (int)pixels->shape[1], width = (int)pixels->shape[2];
    const struct box box = box_of(lot, i);
    const struct target target = target_of(lot, i);
    if (number < 0 || number >= pixels->shape[0] || !fits(&box, &target, height, width))
        return BAD_BOX;
    const size_t bytes = (size_t)height * width * 3;
    const uint8_t *image = (const uint8_t *)pixels->buf + (size_t)number * bytes;
    if ((size_t)(pixels->shape[0] - number) * bytes < bytes + ROW_SLACK) { /* behind the last image lies nothing */
        uint8_t *copy = reserve(copies, bytes + ROW_SLACK);
        if (copy == NULL)
            return NO_MEMORY;
        memset(copy + bytes, 0, ROW_SLACK);
        image = memcpy(copy, image, bytes);
    }
    const struct region region = {
        .pixels = image + ((size_t)box.top * width + box.left) * 3, .stride = (size_t)width * 3,
        .height = box.height, .width = box.width,
    };
    const struct finish finish = finish_of(lot);
    return resize_region(work, &region, &target, &finish, place_of(lot, i)) < 0 ? NO_MEMORY : DONE;
}

PyDoc_STRVAR(
    cut_pixels_doc,
    "cut_pixels(pixels, numbers, boxes, scaled, offsets, flips, scale, bias, out)\n--\n\n"
    "Resized boxes of images of one size.\n\n"
    "Args:\n"
    "    pixels: uint8 (N, H, W, 3).\n"
    "    numbers: int64 (n,), which of them.\n"
    "    boxes, scaled, offsets, flips, scale, bias, out: as in `cut_jpegs`.\n\n"
    "Raises:\n"
    "    ValueError: arrays do not fit each other, or a box lies outside its image."
);

static PyObject *cut_pixels(PyObject *self, PyObject *const *args, Py_ssize_t nargs) {
    (void)self;
    if (nargs != 9)
        return PyErr_Format(PyExc_TypeError, "cut_pixels takes 9 arguments, got %zd", nargs);
    Py_buffer pixels, numbers;
    if (PyObject_GetBuffer(args[0], &pixels, PyBUF_C_CONTIGUOUS) < 0)
        return NULL;
    if (PyObject_GetBuffer(args[1], &numbers, PyBUF_C_CONTIGUOUS) < 0) {
        PyBuffer_Release(&pixels);
        return NULL;
    }
    PyObject *result = NULL;
    struct lot lot;
    if (pixels.ndim != 4 || pixels.itemsize != 1 || pixels.shape[3] != 3 || numbers.itemsize != 8) {
        PyErr_SetString(PyExc_ValueError, "pixels must be uint8 (N, H, W, 3), and numbers int64");
    } else if (acquire_lot(&lot, numbers.len / 8, args + 2) == 0) {
        struct workspace work = {0}, copies = {0};
        enum outcome outcome = DONE;
        Py_ssize_t i = 0;
        Py_BEGIN_ALLOW_THREADS;
        for (; i < lot.n; i++) {
            outcome = cut_one(&pixels, ((const int64_t *)numbers.buf)[i], &lot, i, &work, &copies);
            if (outcome != DONE)
                break;
        }
        free_workspace(&work);
        free_workspace(&copies);
        Py_END_ALLOW_THREADS;
        release_lot(&lot);
        result = outcome == DONE ? Py_NewRef(Py_None) : fail(outcome, i);
    }
    PyBuffer_Release(&pixels);
    PyBuffer_Release(&numbers);
    return result;
}

/* ---- images that are JPEGs ---- */

#ifdef WITH_JPEG

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

struct timing {
    double decode, resize;
};

static enum outcome decode_and_cut(
    struct decoder *decoder, const Py_buffer *jpeg, int height, int width, const struct lot *lot, Py_ssize_t i,
    struct workspace *work, struct timing *timing
) {
    const struct box box = box_of(lot, i);
    const struct target target = target_of(lot, i);
    if (!fits(&box, &target, height, width))
        return BAD_BOX;
    struct region region;
    const double begin = now();
    if (decode_region(decoder, jpeg->buf, (size_t)jpeg->len, height, width, &box, &region) < 0)
        return NOT_DECODED;
    const double decoded = now();
    const struct finish finish = finish_of(lot);
    if (resize_region(work, &region, &target, &finish, place_of(lot, i)) < 0)
        return NO_MEMORY;
    timing->decode += decoded - begin;
    timing->resize += now() - decoded;
    return DONE;
}

PyDoc_STRVAR(
    cut_jpegs_doc,
    "cut_jpegs(jpegs, heights, widths, boxes, scaled, offsets, flips, scale, bias, out, begin)\n--\n\n"
    "Decoded and resized boxes of images, from number `begin` on.\n\n"
    "Args:\n"
    "    jpegs: list of n bytes-like objects.\n"
    "    heights, widths: lists of n whole numbers, pixels.\n"
    "    boxes: int32 (n, 4): top, left, height, width in the image.\n"
    "    scaled: int32 (n, 2): height and width that the box is resized to.\n"
    "    offsets: int32 (n, 2): top and left, in that, of the output.\n"
    "    flips: bool (n,), which are mirrored left to right; None: none.\n"
    "    scale, bias: float32 (S * 3,): values become bias + scale * value, row by row; None where `out` is uint8.\n"
    "    out: uint8, bfloat16 (seen as any type of two bytes) or float32, (n, S, S, 3), written.\n\n"
    "Returns:\n"
    "    (number, decode, resize): the first image that was not decoded, because it is damaged, of another size or no\n"
    "    baseline JPEG, n where there is none; seconds spent on either stage.\n\n"
    "Raises:\n"
    "    ValueError: arrays do not fit each other, or a box lies outside its image."
);

/* Takes hold of all jpegs; how many of them were, fewer than n with an exception set. */
static Py_ssize_t acquire_jpegs(PyObject *list, Py_buffer *jpegs, Py_ssize_t n) {
    for (Py_ssize_t i = 0; i < n; i++)
        if (PyObject_GetBuffer(PyList_GET_ITEM(list, i), &jpegs[i], PyBUF_SIMPLE) < 0)
            return i;
    return n;
}

static int read_numbers(PyObject *list, int *numbers, Py_ssize_t n) {
    if (!PyList_Check(list) || PyList_GET_SIZE(list) != n) {
        PyErr_SetString(PyExc_ValueError, "heights and widths must be lists, as long as that of the images");
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        const long number = PyLong_AsLong(PyList_GET_ITEM(list, i));
        if (number == -1 && PyErr_Occurred())
            return -1;
        numbers[i] = number < 0 || number > 65535 ? 0 : (int)number; /* no JPEG is larger, and no box fits 0 */
    }
    return 0;
}

static PyObject *cut_jpegs(PyObject *self, PyObject *const *args, Py_ssize_t nargs) {
    (void)self;
    if (nargs != 11)
        return PyErr_Format(PyExc_TypeError, "cut_jpegs takes 11 arguments, got %zd", nargs);
    if (!PyList_Check(args[0]))
        return PyErr_Format(PyExc_TypeError, "jpegs must be a list");
    const Py_ssize_t n = PyList_GET_SIZE(args[0]);
    Py_ssize_t i = PyLong_AsSsize_t(args[10]);
    if (i < 0)
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ValueError, "begin must not be negative");
    PyObject *result = NULL;
    struct lot lot;
    if (acquire_lot(&lot, n, args + 3) < 0)
        return NULL;
    int *heights = PyMem_Calloc(2 * (size_t)n + 1, sizeof *heights), *widths = heights + n;
    Py_buffer *jpegs = PyMem_Calloc((size_t)n + 1, sizeof *jpegs);
    Py_ssize_t held = 0;
    if (heights == NULL || jpegs == NULL) {
        PyErr_NoMemory();
    } else if (read_numbers(args[1], heights, n) == 0 && read_numbers(args[2], widths, n) == 0 &&
               (held = acquire_jpegs(args[0], jpegs, n)) == n) {
        struct workspace work = {0};
        struct timing timing = {0};
        enum outcome outcome = DONE;
        Py_BEGIN_ALLOW_THREADS;
        struct decoder *decoder = new_decoder();
        if (decoder == NULL)
            outcome = NO_MEMORY;
        for (; outcome == DONE && i < n; i++) {
            outcome = decode_and_cut(decoder, &jpegs[i], heights[i], widths[i], &lot, i, &work, &timing);
            if (outcome != DONE)
                break;
        }
        free_decoder(decoder);
        free_workspace(&work);
        Py_END_ALLOW_THREADS;
        if (outcome == DONE || outcome == NOT_DECODED)
            result = Py_BuildValue("ndd", i, timing.decode, timing.resize);
        else
            fail(outcome, i);
    }
    for (Py_ssize_t k = 0; k < held; k++)
        PyBuffer_Release(&jpegs[k]);
    PyMem_Free(jpegs);
    PyMem_Free(heights);
    release_lot(&lot);
    return result;
}

#endif

/* ---- the module ---- */

static PyMethodDef methods[] = {
#ifdef WITH_JPEG
    {"cut_jpegs", (PyCFunction)(void (*)(void))cut_jpegs, METH_FASTCALL, cut_jpegs_doc},
#endif
    {"cut_pixels", (PyCFunction)(void (*)(void))cut_pixels, METH_FASTCALL, cut_pixels_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    .m_base = PyModuleDef_HEAD_INIT, .m_name = "_native",
    .m_doc = "Crops of images, cut and resized outside Python.", .m_size = 0, .m_methods = methods,
};

PyMODINIT_FUNC PyInit__native(void) {
    return PyModuleDef_Init(&module);
}
