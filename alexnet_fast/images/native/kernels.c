/* The one place that chooses what runs on this processor. */

#include "kernels.h"

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

int has_avx2(void) {
#if HAVE_X86 && defined(_MSC_VER)
    int leaf[4];
    __cpuid(leaf, 1);
    if ((leaf[2] >> 27 & 3) != 3 || (_xgetbv(0) & 6) != 6) /* the system saves the registers (OSXSAVE, AVX) */
        return 0;
    __cpuidex(leaf, 7, 0);
    return (leaf[1] & (1 << 5 | 1 << 8 | 1 << 3)) == (1 << 5 | 1 << 8 | 1 << 3);
#elif HAVE_X86
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
           __builtin_cpu_supports("fma");
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
