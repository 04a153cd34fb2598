// CounterRandom: random numbers as a pure function of (seed, stream, index).
//
// Nothing is carried from one number to the next, so a saved counter restores the stream exactly, and two
// streams of one seed may be read in any order. The function is SplitMix64 in counter mode: the Weyl step is
// the index, the starting point a hash of seed and stream. Not for cryptography.
//
// Threads: immutable after construction; any number of threads may read one object.
// Exceptions: none. Cost: a few nanoseconds a number.
#pragma once

#include <cstdint>

namespace fastdqn {

// The finaliser of SplitMix64: a bijection of 64 bits in which every input bit reaches every output bit.
constexpr std::uint64_t mix_bits(std::uint64_t x) noexcept {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

class CounterRandom {
 public:
  constexpr CounterRandom(std::uint64_t seed, std::uint64_t stream) noexcept
      : key_(mix_bits(mix_bits(seed + kWeyl) ^ (stream * kWeyl))) {}

  // 64 uniform bits: number `index` of this stream.
  constexpr std::uint64_t bits(std::uint64_t index) const noexcept {
    return mix_bits(key_ + (index + 1) * kWeyl);
  }

  // A uniform double in [0, 1) with 53 random bits.
  constexpr double uniform(std::uint64_t index) const noexcept {
    return static_cast<double>(bits(index) >> 11) * 0x1.0p-53;
  }

  // A uniform integer in [0, bound), exactly unbiased (Lemire's multiplication with rejection). bound > 0.
  // A rejected number (probability below bound / 2^64) is hashed again, so one index always gives one draw.
  std::uint64_t below(std::uint64_t index, std::uint64_t bound) const noexcept;

 private:
  static constexpr std::uint64_t kWeyl = 0x9e3779b97f4a7c15ULL;
  std::uint64_t key_;
};

}  // namespace fastdqn
