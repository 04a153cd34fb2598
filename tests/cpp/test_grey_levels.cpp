#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "check.hpp"
#include "fastdqn/detail/grey_levels.hpp"

using fastdqn::Bfloat16Bits;
using fastdqn::grey_levels;
using fastdqn::kStack;

namespace {

// What the header says, a number at a time, in double.
std::vector<float> slowly(const std::vector<std::uint8_t>& stacks, std::size_t pixels, bool centered) {
  std::vector<float> out;
  const std::size_t size = kStack * pixels;
  for (std::size_t begin = 0; begin < stacks.size(); begin += size) {
    double mean = 0.0;
    for (std::size_t i = 0; i < size; ++i) mean += stacks[begin + i];
    mean = centered ? std::nearbyint(mean / static_cast<double>(size)) : 0.0;
    for (std::size_t pixel = 0; pixel < pixels; ++pixel)
      for (std::size_t frame = 0; frame < kStack; ++frame)
        out.push_back(static_cast<float>(stacks[begin + frame * pixels + pixel] - mean));
  }
  return out;
}

std::vector<float> as_floats(const std::vector<Bfloat16Bits>& numbers) {
  std::vector<float> out(numbers.size());
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const std::uint32_t bits = static_cast<std::uint32_t>(numbers[i]) << 16;
    std::memcpy(&out[i], &bits, sizeof bits);
  }
  return out;
}

std::vector<std::uint8_t> noise(std::size_t count) {
  std::vector<std::uint8_t> bytes(count);
  std::uint32_t state = 1;
  for (std::uint8_t& byte : bytes)
    byte = static_cast<std::uint8_t>((state = state * 1664525u + 1013904223u) >> 24);
  return bytes;
}

void equals_the_slow_one(const std::vector<std::uint8_t>& stacks, std::size_t pixels) {
  for (const bool centered : {false, true}) {
    // One float more on either side, which stays as it is.
    std::vector<float> out(stacks.size() + 2, -7.0f);
    grey_levels(stacks.data(), stacks.size() / (kStack * pixels), pixels, centered, out.data() + 1);
    CHECK(out.front() == -7.0f && out.back() == -7.0f);
    CHECK(std::vector<float>(out.begin() + 1, out.end() - 1) == slowly(stacks, pixels, centered));
    std::vector<Bfloat16Bits> halves(stacks.size() + 2, 7);
    grey_levels(stacks.data(), stacks.size() / (kStack * pixels), pixels, centered, halves.data() + 1);
    CHECK(halves.front() == 7 && halves.back() == 7);
    CHECK(as_floats({halves.begin() + 1, halves.end() - 1}) == slowly(stacks, pixels, centered));
  }
}

}  // namespace

TEST(frames_of_any_size_are_interleaved_and_centred) {
  for (const std::size_t pixels : {1, 2, 3, 15, 16, 17, 63, 64, 65, 7056})
    for (const std::size_t rows : {0, 1, 3}) equals_the_slow_one(noise(rows * kStack * pixels), pixels);
}

TEST(a_mean_between_two_levels_is_rounded_to_the_even_one) {
  // Of eight bytes four are one level higher: means of 0.5, 1.5, ..., 254.5.
  for (int level = 0; level < 255; ++level) {
    const auto low = static_cast<std::uint8_t>(level), high = static_cast<std::uint8_t>(level + 1);
    equals_the_slow_one({low, high, low, high, high, low, low, high}, 2);
  }
}

TEST(the_brightest_frames_do_not_overflow) {
  const std::size_t pixels = 5'000'000;  // 4 of them are 5.1e9 levels
  const std::vector<std::uint8_t> white(kStack * pixels, 255);
  std::vector<float> out(white.size(), 1.0f);
  grey_levels(white.data(), 1, pixels, true, out.data());
  CHECK(out == std::vector<float>(white.size(), 0.0f));
}
