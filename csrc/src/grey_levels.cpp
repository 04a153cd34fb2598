#include "fastdqn/detail/grey_levels.hpp"

#include <cmath>

namespace fastdqn {

namespace {

// Rounded as PyTorch does it: in float32, to which the sum of a row of Atari frames is converted exactly.
float mean_of(const std::uint8_t* bytes, std::size_t count) {
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

}  // namespace

void grey_levels(const std::uint8_t* stacks, std::size_t rows, std::size_t pixels, bool centered,
                 float* __restrict out) {
  for (std::size_t row = 0; row < rows; ++row) {
    const std::uint8_t* __restrict frames = stacks + row * kStack * pixels;
    const float mean = centered ? mean_of(frames, kStack * pixels) : 0.0f;
    // Written out frame by frame, the compiler interleaves whole vectors.
    for (std::size_t pixel = 0; pixel < pixels; ++pixel)
      for (std::size_t frame = 0; frame < kStack; ++frame)
        out[pixel * kStack + frame] = static_cast<float>(frames[frame * pixels + pixel]) - mean;
    out += kStack * pixels;
  }
}

}  // namespace fastdqn
