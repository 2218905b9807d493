/* Includes STAGE once for each kind of vectors that this processor's family has. */

#if HAVE_X86
#define WITH_AVX2 0
#include "simd_x86.h"
#include STAGE
#undef WITH_AVX2
#define WITH_AVX2 1
#include "simd_x86.h"
#include STAGE
#elif HAVE_NEON
#include "simd_neon.h"
#include STAGE
#endif
