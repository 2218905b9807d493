/* alexnet_fast.images.native._native: JPEGs or pixels in, resized crops out, many at a time and without the GIL. */

#define PY_SSIZE_T_CLEAN
#ifdef LIMITED_API /* of Python 3.11, the first that has buffers in it: one extension for that and all later ones */
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>

#include "cut.h"

static const char *const status_names[] = { /* in the order of enum jpeg_status */
    "ok", "unsupported", "damaged", "wrong size", "bad box", "bad seek entry", "no memory",
};

/* ---- the workspace: what one thread decodes and resizes with ---- */

struct workspace_object {
    struct cutter *cutter;
    int busy;
};

static const char capsule_name[] = "alexnet_fast.workspace";

static void free_workspace_object(PyObject *capsule) {
    struct workspace_object *work = PyCapsule_GetPointer(capsule, capsule_name);
    free_cutter(work->cutter);
    PyMem_Free(work);
}

PyDoc_STRVAR(
    workspace_doc,
    "workspace(kernels=None)\n--\n\n"
    "Tables and memory that the other functions work with; not for two threads at once.\n\n"
    "Args:\n"
    "    kernels: 'plain', 'sse2', 'avx2' or 'neon'; None: the fastest that runs here.\n\n"
    "Raises:\n"
    "    ValueError: there are no such kernels here."
);

static PyObject *workspace(PyObject *self, PyObject *args) {
    (void)self;
    const char *kernels = NULL;
    if (!PyArg_ParseTuple(args, "|z", &kernels))
        return NULL;
    const struct kernels *chosen = choose_kernels(kernels);
    if (chosen == NULL)
        return PyErr_Format(PyExc_ValueError, "there are no kernels %s here", kernels);
    struct cutter *cutter = new_cutter(chosen->name);
    struct workspace_object *work = PyMem_Calloc(1, sizeof *work);
    PyObject *capsule = NULL;
    if (cutter == NULL || work == NULL) {
        PyErr_NoMemory();
    } else {
        work->cutter = cutter;
        capsule = PyCapsule_New(work, capsule_name, free_workspace_object);
    }
    if (capsule == NULL) {
        free_cutter(cutter);
        PyMem_Free(work);
    }
    return capsule;
}

/* Takes hold of a workspace, until `busy` is 0 again; NULL with an exception set. */
static struct workspace_object *take_workspace(PyObject *capsule) {
    struct workspace_object *work = PyCapsule_GetPointer(capsule, capsule_name);
    if (work != NULL && work->busy) {
        PyErr_SetString(PyExc_RuntimeError, "a workspace is one thread's: another one is in it");
        return NULL;
    }
    if (work != NULL)
        work->busy = 1;
    return work;
}

/* ---- a batch: what is to be done with n images, and where they go ---- */

struct batch {
    Py_buffer plan, flips, normalise, out;
    Py_ssize_t n;
    struct cuts cuts;
};

static void release_batch(struct batch *batch) {
    PyBuffer_Release(&batch->plan);
    PyBuffer_Release(&batch->flips);
    PyBuffer_Release(&batch->normalise);
    PyBuffer_Release(&batch->out);
}

/* Bytes of a value of that type; 0 where there is none such. */
static enum kind kind_of(const char *dtype) {
    return strcmp(dtype, "uint8") == 0      ? AS_UINT8
           : strcmp(dtype, "bfloat16") == 0 ? AS_BFLOAT16
           : strcmp(dtype, "float32") == 0  ? AS_FLOAT32
                                            : 0;
}

/* Whether the arrays fit each other; what is wrong otherwise. */
static const char *check_batch(const struct batch *batch) {
    const Py_buffer *out = &batch->out;
    const Py_ssize_t n = batch->n, row = out->ndim == 4 ? 3 * out->shape[2] : 0;
    if (batch->cuts.finish.kind == 0)
        return "dtype must be uint8, bfloat16 or float32";
    if (out->ndim != 4 || out->shape[0] != n || out->shape[1] != out->shape[2] || out->shape[3] != 3 ||
        out->shape[1] < 1 || out->shape[1] > MAX_SIDE || out->itemsize != (Py_ssize_t)batch->cuts.finish.kind)
        return "out must be (n, S, S, 3), of values as large as dtype's";
    if (batch->plan.itemsize != 4 || batch->plan.len != n * (Py_ssize_t)sizeof(struct crop_row))
        return "plan must be int32 (n, 10)";
    if (batch->flips.obj && batch->flips.len != n)
        return "flips must be bool (n,)";
    if (batch->cuts.finish.kind == AS_UINT8 ? batch->normalise.obj != NULL : batch->normalise.len != 8 * row)
        return "normalise must be float32 (2, S * 3), and None where dtype is uint8";
    return NULL;
}

/* Takes hold of plan, flips, dtype, normalise and out; -1 with an exception set. */
static int take_batch(struct batch *batch, Py_ssize_t n, PyObject *const *args) {
    memset(batch, 0, sizeof *batch);
    const char *dtype = PyUnicode_Check(args[2]) ? PyUnicode_AsUTF8AndSize(args[2], NULL) : "";
    if (dtype == NULL || PyObject_GetBuffer(args[0], &batch->plan, PyBUF_C_CONTIGUOUS) < 0 ||
        (args[1] != Py_None && PyObject_GetBuffer(args[1], &batch->flips, PyBUF_C_CONTIGUOUS) < 0) ||
        (args[3] != Py_None && PyObject_GetBuffer(args[3], &batch->normalise, PyBUF_C_CONTIGUOUS) < 0) ||
        PyObject_GetBuffer(args[4], &batch->out, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) < 0) {
        release_batch(batch);
        return -1;
    }
    batch->n = n;
    batch->cuts.finish.kind = kind_of(dtype);
    const char *wrong = check_batch(batch);
    if (wrong != NULL) {
        release_batch(batch);
        PyErr_SetString(PyExc_ValueError, wrong);
        return -1;
    }
    const int side = (int)batch->out.shape[1];
    const float *scale = batch->normalise.buf;
    batch->cuts = (struct cuts){
        .crops = batch->plan.buf, .flips = batch->flips.buf, .side = side, .out = batch->out.buf,
        .finish = {.kind = batch->cuts.finish.kind, .scale = scale, .bias = scale ? scale + 3 * side : NULL},
    };
    return 0;
}

/* ---- images that are pixels already ---- */

#define BATCH_DOC \
    "    plan: int32 (n, 10), the rows of a `CropPlan`.\n" \
    "    flips: bool (n,), which are mirrored left to right; None: none.\n" \
    "    dtype: of `out`: 'uint8', 'bfloat16' or 'float32'.\n" \
    "    normalise: float32 (2, S * 3), scale and bias of a row: values become bias + scale * value; None for uint8.\n" \
    "    out: (n, S, S, 3) of values as large as those of `dtype`, written.\n\n" \
    "Returns:\n" \
    "    A status for each image, bytes (n,): an index into `STATUSES`.\n\n" \
    "Raises:\n" \
    "    ValueError: arrays do not fit each other.\n" \
    "    RuntimeError: another thread is using the workspace."

PyDoc_STRVAR(
    cut_pixels_doc,
    "cut_pixels(workspace, pixels, numbers, plan, flips, dtype, normalise, out)\n--\n\n"
    "Resized boxes of images of one size.\n\n"
    "Args:\n"
    "    pixels: uint8 (N, H, W, 3).\n"
    "    numbers: int64 (n,), which of them.\n" BATCH_DOC
);

static PyObject *cut_all_pixels(
    struct cutter *cutter, const Py_buffer *array, const Py_buffer *numbers, const struct batch *batch
) {
    const struct pixels pixels = {
        .first = array->buf, .count = (size_t)array->shape[0],
        .height = (int)array->shape[1], .width = (int)array->shape[2],
    };
    PyObject *statuses = PyBytes_FromStringAndSize(NULL, batch->n);
    if (statuses == NULL)
        return NULL;
    char *status = PyBytes_AsString(statuses);
    const int64_t *number = numbers->buf;
    Py_BEGIN_ALLOW_THREADS;
    for (Py_ssize_t i = 0; i < batch->n; i++)
        status[i] = (char)cut_pixels(cutter, &batch->cuts, (size_t)i, &pixels, number[i]);
    Py_END_ALLOW_THREADS;
    return statuses;
}

static PyObject *cut_pixels_of(PyObject *self, PyObject *const *args, Py_ssize_t nargs) {
    (void)self;
    if (nargs != 8)
        return PyErr_Format(PyExc_TypeError, "cut_pixels takes 8 arguments, got %zd", nargs);
    Py_buffer array, numbers;
    if (PyObject_GetBuffer(args[1], &array, PyBUF_C_CONTIGUOUS) < 0)
        return NULL;
    if (PyObject_GetBuffer(args[2], &numbers, PyBUF_C_CONTIGUOUS) < 0) {
        PyBuffer_Release(&array);
        return NULL;
    }
    PyObject *result = NULL;
    struct batch batch;
    struct workspace_object *work = take_workspace(args[0]);
    if (work != NULL) {
        if (array.ndim != 4 || array.itemsize != 1 || array.shape[3] != 3 || numbers.itemsize != 8) {
            PyErr_SetString(PyExc_ValueError, "pixels must be uint8 (N, H, W, 3), and numbers int64");
        } else if (take_batch(&batch, numbers.len / 8, args + 3) == 0) {
            result = cut_all_pixels(work->cutter, &array, &numbers, &batch);
            release_batch(&batch);
        }
        work->busy = 0;
    }
    PyBuffer_Release(&array);
    PyBuffer_Release(&numbers);
    return result;
}

/* ---- images that are JPEGs ---- */

/* The bytes of a lot of JPEGs and of what seek indexes hold of them. */
struct jpegs {
    Py_buffer *bytes; /* n, then n of seek entries, of which those without have no `obj` */
    Py_ssize_t n, held;
};

static void release_jpegs(struct jpegs *jpegs) {
    for (Py_ssize_t i = 0; i < jpegs->held; i++)
        PyBuffer_Release(&jpegs->bytes[i]);
    PyMem_Free(jpegs->bytes);
}

/* Takes hold of all of them; -1 with an exception set. `seeks` is None or a list as long. */
static int take_jpegs(struct jpegs *jpegs, PyObject *list, PyObject *seeks) {
    memset(jpegs, 0, sizeof *jpegs);
    if (!PyList_Check(list) || (seeks != Py_None && !PyList_Check(seeks))) {
        PyErr_SetString(PyExc_TypeError, "jpegs must be a list, and seeks a list or None");
        return -1;
    }
    const Py_ssize_t n = jpegs->n = PyList_Size(list);
    if (seeks != Py_None && PyList_Size(seeks) != n) {
        PyErr_SetString(PyExc_ValueError, "seeks must be as many as jpegs");
        return -1;
    }
    jpegs->bytes = PyMem_Calloc(2 * (size_t)n + 1, sizeof *jpegs->bytes);
    if (jpegs->bytes == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (; jpegs->held < 2 * n; jpegs->held++) {
        const Py_ssize_t i = jpegs->held;
        PyObject *item = i < n ? PyList_GetItem(list, i) : seeks == Py_None ? Py_None : PyList_GetItem(seeks, i - n);
        if (!(i >= n && item == Py_None) && PyObject_GetBuffer(item, &jpegs->bytes[i], PyBUF_SIMPLE) < 0) {
            release_jpegs(jpegs);
            return -1;
        }
    }
    return 0;
}

static struct encoded encoded_of(const Py_buffer *jpeg, const Py_buffer *seek) {
    return (struct encoded){
        .bytes = jpeg->buf, .length = (size_t)jpeg->len,
        .seek_entry = seek->len ? seek->buf : NULL, .seek_entry_length = (size_t)seek->len,
    };
}

static PyObject *cut_all_jpegs(struct cutter *cutter, const struct jpegs *jpegs, const struct batch *batch) {
    PyObject *statuses = PyBytes_FromStringAndSize(NULL, jpegs->n);
    if (statuses == NULL)
        return NULL;
    char *status = PyBytes_AsString(statuses);
    const Py_buffer *seeks = jpegs->bytes + jpegs->n;
    Py_BEGIN_ALLOW_THREADS;
    for (Py_ssize_t i = 0; i < jpegs->n; i++)
        status[i] = (char)cut_jpeg(cutter, &batch->cuts, (size_t)i, encoded_of(&jpegs->bytes[i], &seeks[i]));
    Py_END_ALLOW_THREADS;
    return statuses;
}

PyDoc_STRVAR(
    cut_jpegs_doc,
    "cut_jpegs(workspace, jpegs, seeks, plan, flips, dtype, normalise, out)\n--\n\n"
    "Decoded and resized boxes of JPEGs.\n\n"
    "Args:\n"
    "    jpegs: list of n bytes-like objects.\n"
    "    seeks: list of n entries of a seek index (docs/format.md) or None where there are none; None: none at all.\n" BATCH_DOC
);

static PyObject *cut_jpegs(PyObject *self, PyObject *const *args, Py_ssize_t nargs) {
    (void)self;
    if (nargs != 8)
        return PyErr_Format(PyExc_TypeError, "cut_jpegs takes 8 arguments, got %zd", nargs);
    struct jpegs jpegs;
    struct batch batch;
    if (take_jpegs(&jpegs, args[1], args[2]) < 0)
        return NULL;
    PyObject *statuses = NULL;
    struct workspace_object *work = take_workspace(args[0]);
    if (work != NULL) {
        if (take_batch(&batch, jpegs.n, args + 3) == 0) {
            statuses = cut_all_jpegs(work->cutter, &jpegs, &batch);
            release_batch(&batch);
        }
        work->busy = 0;
    }
    release_jpegs(&jpegs);
    return statuses;
}

PyDoc_STRVAR(
    decode_doc,
    "decode(workspace, jpeg, seek, plan, out)\n--\n\n"
    "A box of a JPEG, at its own size.\n\n"
    "Args:\n"
    "    jpeg, seek: as in `cut_jpegs`.\n"
    "    plan: int32 (6,): height and width of the image; top, left, height and width of the box.\n"
    "    out: uint8 (height, width, 3), written.\n\n"
    "Returns:\n"
    "    The status, an index into `STATUSES`."
);

static PyObject *decode(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *capsule;
    Py_buffer jpeg, seek, plan, out;
    if (!PyArg_ParseTuple(args, "Oy*z*y*w*", &capsule, &jpeg, &seek, &plan, &out))
        return NULL;
    PyObject *result = NULL;
    struct workspace_object *work = take_workspace(capsule);
    if (work != NULL) {
        const int32_t *p = plan.buf;
        if (plan.len != 24 || p[4] < 1 || p[5] < 1 || out.len != 3 * (Py_ssize_t)p[4] * p[5]) {
            PyErr_SetString(PyExc_ValueError, "plan must be int32 (6,), and out uint8 (height, width, 3)");
        } else {
            struct encoded image = encoded_of(&jpeg, &seek);
            image.height = p[0];
            image.width = p[1];
            const struct box box = {.top = p[2], .left = p[3], .height = p[4], .width = p[5]};
            enum jpeg_status status;
            Py_BEGIN_ALLOW_THREADS;
            status = decode_box(work->cutter, &image, &box, out.buf);
            Py_END_ALLOW_THREADS;
            result = PyLong_FromLong(status);
        }
        work->busy = 0;
    }
    PyBuffer_Release(&jpeg);
    PyBuffer_Release(&seek);
    PyBuffer_Release(&plan);
    PyBuffer_Release(&out);
    return result;
}

PyDoc_STRVAR(
    row_starts_doc,
    "row_starts(workspace, jpeg)\n--\n\n"
    "Decode all coefficients of a JPEG, and find where its MCU rows begin.\n\n"
    "Returns:\n"
    "    (status, height, width, seek entry): an index into `STATUSES`, pixels, and bytes as docs/format.md has them, none\n"
    "    for an image with restart markers or of one MCU row. Where the status is 0, libjpeg-turbo decodes the image\n"
    "    without a warning."
);

static PyObject *row_starts(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *capsule;
    Py_buffer jpeg;
    if (!PyArg_ParseTuple(args, "Oy*", &capsule, &jpeg))
        return NULL;
    PyObject *result = NULL;
    struct workspace_object *work = take_workspace(capsule);
    if (work != NULL) {
        const size_t room = (size_t)MAX_SIDE / 8 * ROW_START_BYTES + ROW_START_BYTES;
        size_t length = 0;
        int height = 0, width = 0;
        enum jpeg_status status = JPEG_NO_MEMORY;
        uint8_t *starts;
        Py_BEGIN_ALLOW_THREADS;
        starts = reserve(&work->cutter->pixels, room);
        if (starts != NULL)
            status = find_row_starts(work->cutter->decoder, jpeg.buf, (size_t)jpeg.len, starts, room, &length, &height, &width);
        Py_END_ALLOW_THREADS;
        const Py_ssize_t known = status == JPEG_OK ? (Py_ssize_t)length : 0;
        result = Py_BuildValue("iiiy#", (int)status, height, width, (char *)starts, known);
        work->busy = 0;
    }
    PyBuffer_Release(&jpeg);
    return result;
}

/* ---- the module ---- */

static PyMethodDef methods[] = {
    {"workspace", workspace, METH_VARARGS, workspace_doc},
    {"cut_jpegs", (PyCFunction)(void (*)(void))cut_jpegs, METH_FASTCALL, cut_jpegs_doc},
    {"cut_pixels", (PyCFunction)(void (*)(void))cut_pixels_of, METH_FASTCALL, cut_pixels_doc},
    {"decode", decode, METH_VARARGS, decode_doc},
    {"row_starts", row_starts, METH_VARARGS, row_starts_doc},
    {NULL, NULL, 0, NULL},
};

static int add_statuses(PyObject *module) {
    const Py_ssize_t n = (Py_ssize_t)(sizeof status_names / sizeof *status_names);
    PyObject *names = PyTuple_New(n);
    for (Py_ssize_t i = 0; names != NULL && i < n; i++) {
        PyObject *name = PyUnicode_FromString(status_names[i]);
        if (name == NULL || PyTuple_SetItem(names, i, name) < 0) {
            Py_DECREF(names);
            return -1;
        }
    }
    const int failed = names == NULL || PyModule_AddObject(module, "STATUSES", names) < 0;
    if (failed)
        Py_XDECREF(names);
    return failed || PyModule_AddStringConstant(module, "KERNELS", choose_kernels(NULL)->name) < 0 ? -1 : 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)add_statuses},
    {0, NULL},
};

static struct PyModuleDef module = {
    .m_base = PyModuleDef_HEAD_INIT, .m_name = "_native",
    .m_doc = "Crops of images, decoded, cut and resized outside Python.", .m_size = 0, .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__native(void) {
    return PyModuleDef_Init(&module);
}
