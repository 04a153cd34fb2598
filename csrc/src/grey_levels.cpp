#include "fastdqn/detail/grey_levels.hpp"

#include <cmath>
#include <cstring>

// Compiled for AVX2 besides: twice as fast; and for bfloat16 written for AVX-512: twice as fast again. There is nothing
// in it that could round otherwise.
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define FASTDQN_AVX2
#define FASTDQN_INLINE inline __attribute__((always_inline))
#else
#define FASTDQN_INLINE inline
#endif

namespace fastdqn {

namespace {

// Rounded as PyTorch does it: in float32, to which the sum of a row of Atari frames is converted exactly.
FASTDQN_INLINE float mean_from(std::uint64_t sum, std::size_t count) {
  return std::nearbyint(static_cast<float>(sum) / static_cast<float>(count));
}

FASTDQN_INLINE float mean_of(const std::uint8_t* bytes, std::size_t count) {
  // Blocks whose sum fits 32 bits: a vector then holds twice as many sums.
  constexpr std::size_t kBlock = 1 << 20;
  std::uint64_t total = 0;
  for (std::size_t begin = 0; begin < count; begin += kBlock) {
    const std::size_t end = begin + kBlock < count ? begin + kBlock : count;
    std::uint32_t sum = 0;
    for (std::size_t i = begin; i < end; ++i) sum += bytes[i];
    total += sum;
  }
  return mean_from(total, count);
}

FASTDQN_INLINE void write(float value, float& out) { out = value; }

FASTDQN_INLINE void write(float value, Bfloat16Bits& out) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  out = static_cast<Bfloat16Bits>(bits >> 16);
}

template <class Number>
FASTDQN_INLINE void write_rows(const std::uint8_t* stacks, std::size_t rows, std::size_t pixels,
                               bool centered, Number* __restrict out) {
  for (std::size_t row = 0; row < rows; ++row) {
    const std::uint8_t* __restrict frames = stacks + row * kStack * pixels;
    const float mean = centered ? mean_of(frames, kStack * pixels) : 0.0f;
    // Written out frame by frame, the compiler interleaves whole vectors.
    for (std::size_t pixel = 0; pixel < pixels; ++pixel)
      for (std::size_t frame = 0; frame < kStack; ++frame)
        write(static_cast<float>(frames[frame * pixels + pixel]) - mean, out[pixel * kStack + frame]);
    out += kStack * pixels;
  }
}

#if defined(FASTDQN_AVX2)
template <class Number>
__attribute__((target("avx2"))) void write_rows_avx2(const std::uint8_t* stacks, std::size_t rows,
                                                     std::size_t pixels, bool centered, Number* out) {
  write_rows(stacks, rows, pixels, centered, out);
}

#if !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // of its own header of intrinsics
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#define FASTDQN_AVX512 __attribute__((target("avx512f,avx512bw")))

FASTDQN_AVX512 inline std::uint64_t sum_avx512(const std::uint8_t* bytes, std::size_t count) {
  __m512i sums = _mm512_setzero_si512();
  for (std::size_t i = 0; i < count; i += 64) {
    const __mmask64 there = count - i >= 64 ? ~__mmask64{0} : (__mmask64{1} << (count - i)) - 1;
    const __m512i block = _mm512_maskz_loadu_epi8(there, bytes + i);
    sums = _mm512_add_epi64(sums, _mm512_sad_epu8(block, _mm512_setzero_si512()));
  }
  return static_cast<std::uint64_t>(_mm512_reduce_add_epi64(sums));
}

// The upper halves of 16 floats: a lane's bytes, four frames of four pixels, less the mean.
template <int Lane>
FASTDQN_AVX512 inline __m256i upper_halves(__m512i bytes, __m512 mean) {
  const __m512i wide = _mm512_cvtepu8_epi32(_mm512_extracti32x4_epi32(bytes, Lane));
  const __m512 values = _mm512_sub_ps(_mm512_cvtepi32_ps(wide), mean);
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(values), 16));
}

template <int Lane>
FASTDQN_AVX512 inline void write_lane(const __m512i (&quarters)[4], __m512 mean, Bfloat16Bits* out) {
  for (int i = 0; i < 4; ++i)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + Lane * 64 + i * 16),
                        upper_halves<Lane>(quarters[i], mean));
}

// 64 pixels at once: unpacking their bytes twice puts four pixels' frames side by side in each lane of a vector.
FASTDQN_AVX512 void write_rows_avx512(const std::uint8_t* stacks, std::size_t rows, std::size_t pixels,
                                      bool centered, Bfloat16Bits* out) {
  for (std::size_t row = 0; row < rows; ++row, out += kStack * pixels) {
    const std::uint8_t* frames = stacks + row * kStack * pixels;
    const float own = centered ? mean_from(sum_avx512(frames, kStack * pixels), kStack * pixels) : 0.0f;
    const __m512 mean = _mm512_set1_ps(own);
    std::size_t pixel = 0;
    for (; pixel + 64 <= pixels; pixel += 64) {
      const __m512i a = _mm512_loadu_si512(frames + pixel), b = _mm512_loadu_si512(frames + pixels + pixel),
                    c = _mm512_loadu_si512(frames + 2 * pixels + pixel),
                    d = _mm512_loadu_si512(frames + 3 * pixels + pixel);
      const __m512i low_ab = _mm512_unpacklo_epi8(a, b), low_cd = _mm512_unpacklo_epi8(c, d),
                    high_ab = _mm512_unpackhi_epi8(a, b), high_cd = _mm512_unpackhi_epi8(c, d);
      const __m512i quarters[4] = {
          _mm512_unpacklo_epi16(low_ab, low_cd), _mm512_unpackhi_epi16(low_ab, low_cd),
          _mm512_unpacklo_epi16(high_ab, high_cd), _mm512_unpackhi_epi16(high_ab, high_cd)};
      Bfloat16Bits* block = out + pixel * kStack;
      write_lane<0>(quarters, mean, block), write_lane<1>(quarters, mean, block);
      write_lane<2>(quarters, mean, block), write_lane<3>(quarters, mean, block);
    }
    for (; pixel < pixels; ++pixel)
      for (std::size_t frame = 0; frame < kStack; ++frame)
        write(static_cast<float>(frames[frame * pixels + pixel]) - own, out[pixel * kStack + frame]);
  }
}

#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#if !defined(FASTDQN_MOST_AVX)  // tests compile it for less
#define FASTDQN_MOST_AVX 512
#endif
const bool kFast = FASTDQN_MOST_AVX >= 2 && __builtin_cpu_supports("avx2") != 0;
const bool kFastest = FASTDQN_MOST_AVX >= 512 && __builtin_cpu_supports("avx512f") != 0 &&
                      __builtin_cpu_supports("avx512bw") != 0;
#endif

void write_all(const std::uint8_t* stacks, std::size_t rows, std::size_t pixels, bool centered, float* out) {
#if defined(FASTDQN_AVX2)
  if (kFast) return write_rows_avx2(stacks, rows, pixels, centered, out);
#endif
  write_rows(stacks, rows, pixels, centered, out);
}

void write_all(const std::uint8_t* stacks, std::size_t rows, std::size_t pixels, bool centered,
               Bfloat16Bits* out) {
#if defined(FASTDQN_AVX2)
  if (kFastest) return write_rows_avx512(stacks, rows, pixels, centered, out);
  if (kFast) return write_rows_avx2(stacks, rows, pixels, centered, out);
#endif
  write_rows(stacks, rows, pixels, centered, out);
}

}  // namespace

void grey_levels(const std::uint8_t* stacks, std::size_t rows, std::size_t pixels, bool centered,
                 float* out) {
  write_all(stacks, rows, pixels, centered, out);
}

void grey_levels(const std::uint8_t* stacks, std::size_t rows, std::size_t pixels, bool centered,
                 Bfloat16Bits* out) {
  write_all(stacks, rows, pixels, centered, out);
}

float mean_grey_level(const std::uint8_t* bytes, std::size_t count) {
#if defined(FASTDQN_AVX2)
  if (kFastest) return mean_from(sum_avx512(bytes, count), count);
#endif
  return mean_of(bytes, count);
}

}  // namespace fastdqn
