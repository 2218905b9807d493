/* The one place that chooses what runs on this processor. */

#include "kernels.h"

#if HAVE_X86 && !defined(_MSC_VER)
#include <cpuid.h>
#endif

#define KERNELS(kind, entropy) \
    { \
        .name = #kind, .destuff = destuff_##kind, .decode_mcu = decode_mcu_##entropy, \
        .decode_two = decode_two_##entropy, .idct_two = idct_two_##kind, .upsample_across = upsample_across_##kind, \
        .upsample_down = upsample_down_##kind, .upsample_both = upsample_both_##kind, .to_rgb = to_rgb_##kind, \
    }

static const struct kernels all_kernels[] = { /* the best last */
    KERNELS(plain, plain),
#if HAVE_X86
    KERNELS(sse2, plain),
    KERNELS(avx2, avx2),
#elif HAVE_NEON
    KERNELS(neon, plain),
#endif
};

/* Asked of the processor itself: compilers' own ways to ask differ, and not all of their run-time libraries answer. */
int has_avx2(void) {
#if HAVE_X86
    enum { FMA = 1 << 12, OSXSAVE = 1 << 27, AVX = 1 << 28, BMI = 1 << 3, AVX2 = 1 << 5, BMI2 = 1 << 8 };
    unsigned int leaf[4] = {0}, saved;
#ifdef _MSC_VER
    __cpuid((int *)leaf, 1);
    const unsigned int features = leaf[2];
    if ((features & (FMA | OSXSAVE | AVX)) != (FMA | OSXSAVE | AVX))
        return 0;
    saved = (unsigned int)_xgetbv(0);
    __cpuidex((int *)leaf, 7, 0);
#else
    unsigned int high;
    if (!__get_cpuid(1, &leaf[0], &leaf[1], &leaf[2], &leaf[3]) ||
        (leaf[2] & (FMA | OSXSAVE | AVX)) != (FMA | OSXSAVE | AVX))
        return 0;
    __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    if (!__get_cpuid_count(7, 0, &leaf[0], &leaf[1], &leaf[2], &leaf[3]))
        return 0;
#endif
    /* The system has to save the upper halves of registers as well. */
    return (saved & 6) == 6 && (leaf[1] & (BMI | AVX2 | BMI2)) == (BMI | AVX2 | BMI2);
#else
    return 0;
#endif
}

const struct kernels *choose_kernels(const char *name) {
    for (int i = (int)(sizeof all_kernels / sizeof *all_kernels) - 1; i >= 0; i--) {
        const struct kernels *kernels = &all_kernels[i];
        const int runs = strcmp(kernels->name, "avx2") != 0 || has_avx2();
        if (runs && (name == NULL || strcmp(kernels->name, name) == 0))
            return kernels;
    }
    return NULL;
}
