#include <cmath>
#include <set>
#include <vector>

#include "check.hpp"
#include "fastdqn/detail/random.hpp"

using fastdqn::CounterRandom;

// The stream is part of the file format: a saved counter must give the same numbers in every later version.
TEST(the_numbers_never_change) {
  CHECK_EQ(CounterRandom(0, 0).bits(0), 0x568a9b0b1a2c05ecULL);
  CHECK_EQ(CounterRandom(1, 2).bits(3), 0x198109f2b20dcf03ULL);
}

TEST(seeds_and_streams_differ) {
  std::set<std::uint64_t> seen;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    for (std::uint64_t stream = 0; stream < 20; ++stream) {
      for (std::uint64_t index = 0; index < 20; ++index) seen.insert(CounterRandom(seed, stream).bits(index));
    }
  }
  CHECK_EQ(seen.size(), 8000u);
}

TEST(uniform_numbers_lie_in_the_unit_interval) {
  const CounterRandom random(7, 0);
  double sum = 0.0;
  for (std::uint64_t i = 0; i < 100000; ++i) {
    const double x = random.uniform(i);
    CHECK(x >= 0.0 && x < 1.0);
    sum += x;
  }
  // Seed 7; the mean of 100,000 has a standard deviation of 0.0009: catches a wrong scale or a constant bit.
  CHECK(std::abs(sum / 100000 - 0.5) < 0.005);
}

TEST(below_one_is_zero) { CHECK_EQ(CounterRandom(3, 0).below(12, 1), 0u); }

// Seed 11, Pearson's chi-square over 10 cells, 9 degrees of freedom, 0.999 quantile 27.9: catches a biased or
// wrong scaling of the bits.
TEST(below_is_uniform_over_a_small_bound) {
  const CounterRandom random(11, 0);
  std::vector<double> counts(10, 0.0);
  for (std::uint64_t i = 0; i < 100000; ++i) counts[random.below(i, 10)] += 1.0;
  double statistic = 0.0;
  for (const double count : counts) statistic += (count - 1e4) * (count - 1e4) / 1e4;
  CHECK(statistic < 27.9);
}

// With a bound of 3 * 2^62 one number in four is rejected, and without rejection every third result would
// come twice as often as the others. Seed 5; of 30,000 draws 10,000 in each class mod 3, standard
// deviation 82.
TEST(below_is_unbiased_for_a_huge_bound) {
  const CounterRandom random(5, 0);
  const std::uint64_t bound = 3ULL << 62;
  std::vector<int> counts(3, 0);
  for (std::uint64_t i = 0; i < 30000; ++i) {
    const std::uint64_t x = random.below(i, bound);
    CHECK(x < bound);
    ++counts[x % 3];
  }
  for (const int count : counts) CHECK(std::abs(count - 10000) < 400);
}
