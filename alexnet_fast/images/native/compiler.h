/* What differs between compilers and processors, in one place. */

#ifndef ALEXNET_FAST_COMPILER_H
#define ALEXNET_FAST_COMPILER_H

#include <stdint.h>
#include <string.h>
#ifdef _MSC_VER
#include <intrin.h>
#endif

#if defined(__GNUC__) || defined(__clang__)
#define LIKELY(condition) __builtin_expect(!!(condition), 1)
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)
#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define NOT_INLINE __attribute__((noinline))
#define MAYBE_UNUSED __attribute__((unused))
#define ALIGNED(bytes) __attribute__((aligned(bytes)))
#define TARGET(features) __attribute__((target(features)))
#elif defined(_MSC_VER)
#define LIKELY(condition) (condition)
#define UNLIKELY(condition) (condition)
#define ALWAYS_INLINE static __forceinline
#define NOT_INLINE __declspec(noinline)
#define MAYBE_UNUSED
#define ALIGNED(bytes) __declspec(align(bytes))
#define TARGET(features) /* its intrinsics need no leave */
#else
#define LIKELY(condition) (condition)
#define UNLIKELY(condition) (condition)
#define ALWAYS_INLINE static inline
#define NOT_INLINE
#define MAYBE_UNUSED
#define ALIGNED(bytes) _Alignas(bytes)
#define TARGET(features)
#endif

/* The number of the lowest bit that is set; 32 where none is. */
ALWAYS_INLINE int first_bit(uint32_t bits) {
    if (bits == 0)
        return 32;
#ifdef _MSC_VER
    unsigned long at;
    _BitScanForward(&at, bits);
    return (int)at;
#elif defined(__GNUC__)
    return __builtin_ctz(bits);
#else
    int at = 0;
    while (!(bits >> at & 1))
        at++;
    return at;
#endif
}

#if (defined(__x86_64__) && defined(__GNUC__)) || defined(_M_X64)
#define HAVE_X86 1
#include <immintrin.h>
#elif (defined(__aarch64__) && defined(__GNUC__)) || defined(_M_ARM64)
#define HAVE_NEON 1
#include <arm_neon.h>
#endif

/* Eight bytes as a number, the first of them the highest; compilers make one or two instructions of it. */
ALWAYS_INLINE uint64_t load_big_endian(const uint8_t *bytes) {
    return (uint64_t)bytes[0] << 56 | (uint64_t)bytes[1] << 48 | (uint64_t)bytes[2] << 40 | (uint64_t)bytes[3] << 32 |
           (uint64_t)bytes[4] << 24 | (uint64_t)bytes[5] << 16 | (uint64_t)bytes[6] << 8 | (uint64_t)bytes[7];
}

#endif
