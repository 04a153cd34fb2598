#include "fastdqn/detail/grey_levels.hpp"

#include <cmath>
#include <cstring>

// Compiled for AVX2 besides: twice as fast. There is nothing in it that could round otherwise.
#if defined(__x86_64__) && defined(__GNUC__)
#define FASTDQN_AVX2
#define FASTDQN_INLINE inline __attribute__((always_inline))
#else
#define FASTDQN_INLINE inline
#endif

namespace fastdqn {

namespace {

// Rounded as PyTorch does it: in float32, to which the sum of a row of Atari frames is converted exactly.
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
  return std::nearbyint(static_cast<float>(total) / static_cast<float>(count));
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

const bool kFast = __builtin_cpu_supports("avx2") != 0;
#endif

template <class Number>
void write_all(const std::uint8_t* stacks, std::size_t rows, std::size_t pixels, bool centered, Number* out) {
#if defined(FASTDQN_AVX2)
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

}  // namespace fastdqn
