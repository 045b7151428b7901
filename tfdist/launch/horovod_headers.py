"""Headers that the compiler sees before Horovod's and TensorFlow's own."""

from __future__ import annotations

from pathlib import Path

OLD_HEADER = "tensorflow/compiler/xla/client/xla_builder.h"
NEW_HEADER = "xla/hlo/builder/xla_builder.h"

EARLY_HEADER = "tfdist_early.h"

# Gloo uses uint8_t without <cstdint>, which GCC 13 no longer forgives.
#
# It adds float16 one by one, in software, sixty times as slowly as float32, and of
# random bit patterns one sum in 46,000 is wrong: `float16::operator=` (types.h)
# compares bits with a number and may keep the old value. The file that would do
# better (math.cc) is not on its list of sources. So this declares the same function
# template and adds eight at once.
#
# The thread that writes Horovod's timeline looks for records in an endless loop of
# std::this_thread::yield (timeline.cc, WriterLoop). It runs from the start where a
# timeline may be asked for later, and takes a core of rank 0. So a yield is a pause
# here; the variable says so to the one who asks for a timeline (strategies/horovod.py).
EARLY_TEXT = """\
#pragma once
#include <cstddef>
#include <cstdint>
#include <sched.h>
#include <time.h>

#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 34)
static inline int tfdist_pause() {
  const timespec millisecond = {0, 1000000};
  return nanosleep(&millisecond, nullptr);
}
#define sched_yield tfdist_pause
#include <thread>
#undef sched_yield

extern "C" {
__attribute__((weak, used, visibility("default"))) int horovod_timeline_pauses = 1;
}
#endif

#if defined(__AVX__) && defined(__F16C__)
#include <immintrin.h>

namespace gloo {

struct float16;

template <typename T>
void sum(void* result, const void* first, const void* second, size_t count);

template <>
inline void sum<float16>(
    void* result, const void* first, const void* second, size_t count) {
  auto* to = static_cast<uint16_t*>(result);
  auto* one = static_cast<const uint16_t*>(first);
  auto* two = static_cast<const uint16_t*>(second);
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(one + i));
    __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(two + i));
    __m256 total = _mm256_add_ps(_mm256_cvtph_ps(a), _mm256_cvtph_ps(b));
    __m128i halves = _mm256_cvtps_ph(total, _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), halves);
  }
  for (; i < count; i++) {
    float total = _cvtsh_ss(one[i]) + _cvtsh_ss(two[i]);
    to[i] = _cvtss_sh(total, _MM_FROUND_TO_NEAREST_INT);
  }
}

}  // namespace gloo
#endif
"""


def write_headers(tensorflow: Path, folder: Path) -> Path:
    """Writes our headers to a folder and returns it.

    Args:
        tensorflow: TensorFlow's include folder. What lies at its new place is
            forwarded from the old one, where Horovod looks for it.
        folder: Is made.
    """
    folder.mkdir(parents=True)
    (folder / EARLY_HEADER).write_text(EARLY_TEXT)
    if not (tensorflow / OLD_HEADER).exists() and (tensorflow / NEW_HEADER).exists():
        old = folder / OLD_HEADER
        old.parent.mkdir(parents=True)
        old.write_text(f'#include "{NEW_HEADER}"\n')
    return folder
