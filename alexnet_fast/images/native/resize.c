/* The rows are mixed first and the columns of each mixed row while it lies in the first-level cache: a crop is mostly
 * taller than the output, so the columns, which cost more, are mixed for fewer rows.
 *
 * Weights are 14-bit whole numbers that add up to one exactly, so an even picture keeps its value. */

#include "resize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "jpeg.h"

#define WEIGHT_BITS 14
#define ONE (1 << WEIGHT_BITS)
#define HALF (1 << (WEIGHT_BITS - 1))

/* For each output position: the first input position, and `taps` weights from there on, zero where there are fewer. */
struct axis {
    int taps;
    int32_t *first;
    int16_t *weights;
};

static int round_up(int n, int multiple) {
    return (n + multiple - 1) / multiple * multiple;
}

/* No stretch of twice the support holds the centres of more pixels. */
static int most_taps(int in, int out, int multiple) {
    return round_up((int)ceil(in > out ? 2.0 * in / out : 2.0), multiple);
}

/* The triangle filter over support max(1, in / out) around each output pixel's centre. */
static void plan_axis(struct axis *axis, double *exact, int in, int out, int begin, int n) {
    double scale = (double)in / out, support = scale > 1.0 ? scale : 1.0, slope = 1.0 / support;
    for (int i = 0; i < n; i++) {
        double centre = scale * (begin + i + 0.5), sum = 0.0;
        int low = (int)(centre - support + 0.5), high = (int)(centre + support + 0.5);
        low = low < 0 ? 0 : low;
        high = high > in ? in : high;
        if (high - low > axis->taps) /* rounding alone makes it so: the weight is next to nothing */
            high = low + axis->taps;
        int16_t *weights = axis->weights + (size_t)i * axis->taps;
        memset(weights, 0, axis->taps * sizeof *weights);
        for (int j = low; j < high; j++) {
            double weight = 1.0 - fabs(j + 0.5 - centre) * slope;
            exact[j - low] = weight > 0.0 ? weight : 0.0;
            sum += exact[j - low];
        }
        int rest = ONE, largest = 0;
        double factor = ONE / sum;
        for (int j = 0; j < high - low; j++) {
            weights[j] = (int16_t)(exact[j] * factor + 0.5);
            rest -= weights[j];
            if (weights[j] > weights[largest])
                largest = j;
        }
        weights[largest] = (int16_t)(weights[largest] + rest);
        axis->first[i] = low;
    }
}

static uint8_t clip(int32_t sum) {
    sum = (sum + HALF) >> WEIGHT_BITS;
    return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

/* `bytes` bytes of `taps` rows into one. */
static void mix_rows_plain(
    const uint8_t *row, size_t stride, const int16_t *weights, int taps, int bytes, uint8_t *out
) {
    while (taps > 1 && weights[taps - 1] == 0)
        taps--;
    for (int x = 0; x < bytes; x++) {
        int32_t sum = 0;
        for (int t = 0; t < taps; t++)
            sum += weights[t] * row[t * stride + x];
        out[x] = clip(sum);
    }
}

static void mix_columns_plain(const uint8_t *row, const struct axis *axis, int side, int mirrored, uint8_t *out) {
    for (int i = 0; i < side; i++) {
        const uint8_t *pixel = row + 3 * axis->first[i];
        const int16_t *weights = axis->weights + (size_t)i * axis->taps;
        uint8_t *to = out + 3 * (mirrored ? side - 1 - i : i);
        int32_t red = 0, green = 0, blue = 0;
        for (int t = 0; t < axis->taps; t++) {
            red += weights[t] * pixel[3 * t];
            green += weights[t] * pixel[3 * t + 1];
            blue += weights[t] * pixel[3 * t + 2];
        }
        to[0] = clip(red), to[1] = clip(green), to[2] = clip(blue);
    }
}

/* bias + scale * value, rounded once, as torch's addcmul does it on a CPU: with the instruction for that, or in double,
 * which holds the product of a float and a byte and the sum exactly. So all processors and compilers give one result. */
ALWAYS_INLINE float normalise(float bias, float scale, uint8_t value, int has_fma) {
    return has_fma ? fmaf(scale, value, bias) : (float)(bias + (double)scale * value);
}

/* The compiler makes vector code of these loops, for AVX2 where they are inlined into code for it. */
ALWAYS_INLINE void finish_row(const uint8_t *row, const struct finish *finish, int n, int has_fma, void *out) {
    const float *scale = finish->scale, *bias = finish->bias;
    if (finish->kind == AS_FLOAT32) {
        float *to = out;
        for (int i = 0; i < n; i++)
            to[i] = normalise(bias[i], scale[i], row[i], has_fma);
    } else if (finish->kind == AS_BFLOAT16) {
        uint16_t *to = out;
        for (int i = 0; i < n; i++) {
            const float value = normalise(bias[i], scale[i], row[i], has_fma);
            uint32_t bits;
            memcpy(&bits, &value, sizeof bits);
            to[i] = (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16); /* to the nearest, ties to even */
        }
    }
}

static void finish_row_plain(const uint8_t *row, const struct finish *finish, int n, void *out) {
    finish_row(row, finish, n, 0, out);
}

#if HAVE_X86

TARGET("avx2,fma") static void finish_row_avx2(const uint8_t *row, const struct finish *finish, int n, void *out) {
    finish_row(row, finish, n, 1, out);
}

/* As `mix_rows_plain`, where `last` is the last row that exists. Two rows at a time: their bytes side by side, widened, multiplied with both weights and added in one instruction. */
TARGET("avx2") static void mix_rows_avx2(
    const uint8_t *row, const uint8_t *last, size_t stride, const int16_t *weights, int taps, int bytes, uint8_t *out
) {
    const __m256i half = _mm256_set1_epi32(HALF);
    for (int x = 0; x < bytes; x += 16) {
        __m256i low = half, high = half;
        const uint8_t *from = row;
        for (int t = 0; t < taps; t += 2) {
            const uint8_t *next = from + stride > last ? from : from + stride; /* its weight is 0 */
            __m128i a = _mm_loadu_si128((const __m128i *)(from + x));
            __m128i b = _mm_loadu_si128((const __m128i *)(next + x));
            int32_t pair;
            memcpy(&pair, weights + t, sizeof pair);
            __m256i both = _mm256_set1_epi32(pair);
            low = _mm256_add_epi32(low, _mm256_madd_epi16(_mm256_cvtepu8_epi16(_mm_unpacklo_epi8(a, b)), both));
            high = _mm256_add_epi32(high, _mm256_madd_epi16(_mm256_cvtepu8_epi16(_mm_unpackhi_epi8(a, b)), both));
            from = next + stride > last ? next : next + stride;
        }
        low = _mm256_srai_epi32(low, WEIGHT_BITS);
        high = _mm256_srai_epi32(high, WEIGHT_BITS);
        __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xD8);
        __m128i mixed = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        _mm_storeu_si128((__m128i *)(out + x), mixed);
    }
}

/* Weights of the columns as `mix_columns_avx2` multiplies with them: for two output pixels, one in each half of a
 * register, and four taps: those of the first two taps for each colour and a fourth that is none, then of the others. */
static void spread_weights(const struct axis *axis, int side, int16_t *spread) {
    for (int i = 0; i < side; i++) {
        const int16_t *weights = axis->weights + (size_t)i * axis->taps;
        int16_t *to = spread + (size_t)(i / 2) * axis->taps * 8 + i % 2 * 8;
        for (int t = 0; t < axis->taps; t += 2, to += 16)
            for (int colour = 0; colour < 4; colour++)
                memcpy(to + 2 * colour, weights + t, 2 * sizeof *weights);
    }
}

/* Two output pixels, a half of the register each, four taps at a time: the colours of two neighbours are brought side by
 * side as 16-bit numbers, multiplied with both weights and added in one instruction. */
TARGET("avx2") ALWAYS_INLINE __m256i mix_two_pixels(const uint8_t *one, const uint8_t *two, const int16_t *spread, int taps) {
    const __m256i near = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1)
    );
    const __m256i far = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1)
    );
    __m256i sum = _mm256_set1_epi32(HALF);
    for (int t = 0; t < taps; t += 4, one += 12, two += 12, spread += 32) {
        const __m256i pixels = _mm256_inserti128_si256(
            _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)one)), _mm_loadu_si128((const __m128i *)two), 1
        );
        const __m256i *weights = (const __m256i *)spread;
        const __m256i first = _mm256_madd_epi16(_mm256_shuffle_epi8(pixels, near), _mm256_load_si256(weights));
        const __m256i second = _mm256_madd_epi16(_mm256_shuffle_epi8(pixels, far), _mm256_load_si256(weights + 1));
        sum = _mm256_add_epi32(sum, _mm256_add_epi32(first, second));
    }
    return _mm256_srai_epi32(sum, WEIGHT_BITS);
}

/* Four output pixels at a time; `taps` are those of `axis`, known to the compiler where they are four. */
TARGET("avx2") ALWAYS_INLINE void mix_columns_by_taps(
    const uint8_t *row, const struct axis *axis, const int16_t *spread, int taps, int side, int mirrored, uint8_t *out
) {
    const __m128i in_order = _mm_setr_epi8(0, 1, 2, 8, 9, 10, 4, 5, 6, 12, 13, 14, -1, -1, -1, -1);
    const __m128i reversed = _mm_setr_epi8(12, 13, 14, 4, 5, 6, 8, 9, 10, 0, 1, 2, -1, -1, -1, -1);
    const __m128i order = mirrored ? reversed : in_order;
    const int32_t *first = axis->first;
    for (int i = 0; i < side; i += 4, first += 4, spread += 16 * taps) {
        const __m256i left = mix_two_pixels(row + 3 * first[0], row + 3 * first[1], spread, taps);
        const __m256i right = mix_two_pixels(row + 3 * first[2], row + 3 * first[3], spread + 8 * taps, taps);
        const __m256i words = _mm256_packs_epi32(left, right); /* pixels 0 and 2, then 1 and 3 */
        __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        bytes = _mm_shuffle_epi8(bytes, order);
        const int rest = side - i;
        if (rest >= 4) {
            uint8_t *to = out + 3 * (mirrored ? rest - 4 : i);
            const int32_t end = _mm_extract_epi32(bytes, 2);
            _mm_storel_epi64((__m128i *)to, bytes);
            memcpy(to + 8, &end, sizeof end);
        } else {
            uint8_t some[16];
            _mm_storeu_si128((__m128i *)some, bytes);
            memcpy(mirrored ? out : out + 3 * i, mirrored ? some + 3 * (4 - rest) : some, 3 * (size_t)rest);
        }
    }
}

TARGET("avx2") static void mix_columns_avx2(
    const uint8_t *row, const struct axis *axis, const int16_t *spread, int side, int mirrored, uint8_t *out
) {
    if (axis->taps == 4)
        mix_columns_by_taps(row, axis, spread, 4, side, mirrored, out);
    else
        mix_columns_by_taps(row, axis, spread, axis->taps, side, mirrored, out);
}

#endif

void *reserve(struct workspace *work, size_t size) {
    if (work->size < size) {
        free(work->memory);
        work->memory = malloc(size);
        work->size = work->memory ? size : 0;
    }
    return work->memory;
}

void free_workspace(struct workspace *work) {
    free(work->memory);
    work->memory = NULL;
    work->size = 0;
}

/* Cuts `size` bytes off the front of *memory, so that what follows is aligned as it was. */
static void *take(char **memory, size_t size) {
    void *taken = *memory;
    *memory += (size + 63) / 64 * 64;
    return taken;
}

int rows_kept(int height, int target_height) {
    return most_taps(height, target_height, 2);
}

/* What a resize works with: weights of both axes and a mixed row. */
struct plan {
    struct axis rows, columns;
    int16_t *spread;
    uint8_t *mixed, *whole;
    int avx2;
};

static int make_plan(
    struct workspace *work, int height, int width, const struct target *target, int avx2, struct plan *plan
) {
    const int side = target->side, places = round_up(side, 4), bytes = 3 * width;
    struct axis *rows = &plan->rows, *columns = &plan->columns;
    rows->taps = most_taps(height, target->height, 2), columns->taps = most_taps(width, target->width, 4);
    const size_t taps = (size_t)rows->taps + columns->taps;
    /* Whole vectors are written, and the last pixel's taps reach past the row. */
    const size_t mixed_size = (size_t)bytes + 3 * columns->taps + 2 * ROW_SLACK;
    char *memory = reserve(work, mixed_size + places * (8 + 2 * taps + 8 * columns->taps + 3) + 8 * taps + 9 * 64);
    if (memory == NULL)
        return JPEG_NO_MEMORY;
    memory += -(uintptr_t)memory % 64;
    plan->mixed = take(&memory, mixed_size);
    rows->first = take(&memory, places * sizeof *rows->first);
    columns->first = take(&memory, places * sizeof *columns->first);
    rows->weights = take(&memory, places * rows->taps * sizeof *rows->weights);
    columns->weights = take(&memory, places * columns->taps * sizeof *columns->weights);
    plan->spread = take(&memory, 4 * (size_t)places * columns->taps * sizeof *plan->spread);
    plan->whole = take(&memory, 3 * (size_t)places);
    double *exact = take(&memory, taps * sizeof *exact);
    plan_axis(rows, exact, height, target->height, target->top, side);
    plan_axis(columns, exact, width, target->width, target->left, side);
    for (int i = side; i < places; i++)
        columns->first[i] = 0;
    memset(plan->mixed + bytes, 0, mixed_size - bytes);
    plan->avx2 = avx2;
#if HAVE_X86
    if (avx2)
        spread_weights(columns, side, plan->spread);
#endif
    return JPEG_OK;
}

/* Output row y from the rows at `row`, of which `last` is the last that is there. */
static void make_row(
    const struct plan *plan, int y, const uint8_t *row, const uint8_t *last, size_t stride, int width,
    const struct target *target, const struct finish *finish, void *to
) {
    const int side = target->side, bytes = 3 * width;
    const int16_t *weights = plan->rows.weights + (size_t)y * plan->rows.taps;
    uint8_t *done = finish->kind == AS_UINT8 ? to : plan->whole;
#if HAVE_X86
    if (plan->avx2) {
        mix_rows_avx2(row, last, stride, weights, plan->rows.taps, bytes, plan->mixed);
        mix_columns_avx2(plan->mixed, &plan->columns, plan->spread, side, target->mirrored, done);
        if (finish->kind != AS_UINT8)
            finish_row_avx2(done, finish, 3 * side, to);
        return;
    }
#endif
    (void)last;
    mix_rows_plain(row, stride, weights, plan->rows.taps, bytes, plan->mixed);
    mix_columns_plain(plan->mixed, &plan->columns, side, target->mirrored, done);
    if (finish->kind != AS_UINT8)
        finish_row_plain(done, finish, 3 * side, to);
}

int resize_box(
    struct workspace *work, struct row_source *rows, int height, int width, const struct target *target,
    const struct finish *finish, void *out
) {
    struct plan plan;
    int status = make_plan(work, height, width, target, finish->avx2, &plan);
    char *to = out;
    for (int y = 0; y < target->side && status == JPEG_OK; y++, to += 3 * (size_t)target->side * finish->kind) {
        const int first = plan.rows.first[y], end = first + plan.rows.taps < height ? first + plan.rows.taps : height;
        while (rows->end < end && status == JPEG_OK)
            status = rows->more(rows, first);
        if (status != JPEG_OK)
            return status;
        const uint8_t *row = rows->pixels + (size_t)(first - rows->first) * rows->stride;
        const uint8_t *last = rows->pixels + (size_t)(end - 1 - rows->first) * rows->stride;
        make_row(&plan, y, row, last, rows->stride, width, target, finish, to);
    }
    return status;
}
