#include "fastdqn/detail/random.hpp"

namespace fastdqn {
namespace {

struct Product {
  std::uint64_t high;
  std::uint64_t low;
};

// The full 128-bit product, by halves: portable, and as fast as needed beside copying a frame.
constexpr Product multiply(std::uint64_t a, std::uint64_t b) noexcept {
  const std::uint64_t a_low = a & 0xffffffffULL, a_high = a >> 32;
  const std::uint64_t b_low = b & 0xffffffffULL, b_high = b >> 32;
  const std::uint64_t low = a_low * b_low;
  const std::uint64_t middle = a_high * b_low + (low >> 32);
  const std::uint64_t cross = a_low * b_high + (middle & 0xffffffffULL);
  return {a_high * b_high + (middle >> 32) + (cross >> 32), (cross << 32) | (low & 0xffffffffULL)};
}

}  // namespace

std::uint64_t CounterRandom::below(std::uint64_t index, std::uint64_t bound) const noexcept {
  std::uint64_t x = bits(index);
  Product product = multiply(x, bound);
  if (product.low < bound) {
    // 2^64 mod bound: the numbers below it would make some results one more likely than others.
    const std::uint64_t threshold = (0 - bound) % bound;
    while (product.low < threshold) {
      x = mix_bits(x + kWeyl);
      product = multiply(x, bound);
    }
  }
  return product.high;
}

}  // namespace fastdqn
