#include <algorithm>
#include <cmath>
#include <vector>

#include "check.hpp"
#include "fastdqn/detail/random.hpp"
#include "fastdqn/detail/sum_tree.hpp"

using fastdqn::CounterRandom;
using fastdqn::SumTree;

namespace {

SumTree tree_of(const std::vector<double>& weights) {
  SumTree tree(weights.size());
  for (std::size_t i = 0; i < weights.size(); ++i) tree.set(i, weights[i]);
  CHECK_EQ(tree.invariant_violation(), "");
  return tree;
}

}  // namespace

TEST(a_prefix_finds_its_share) {
  const SumTree tree = tree_of({2.0, 0.0, 1.0, 3.0});
  CHECK_EQ(tree.total(), 6.0);
  CHECK_EQ(tree.find(0.0), 0u);
  CHECK_EQ(tree.find(1.999), 0u);
  CHECK_EQ(tree.find(2.0), 2u);
  CHECK_EQ(tree.find(3.0), 3u);
  CHECK_EQ(tree.find(5.999), 3u);
}

TEST(sizes_around_a_power_of_sixteen_work) {
  for (const std::uint64_t size : {1, 2, 15, 16, 17, 255, 256, 257, 4095, 4096, 4097}) {
    SumTree tree(size);
    for (std::uint64_t i = 0; i < size; ++i) tree.set(i, 1.0);
    CHECK_EQ(tree.invariant_violation(), "");
    CHECK_EQ(tree.total(), static_cast<double>(size));
    for (std::uint64_t i = 0; i < size; ++i) CHECK_EQ(tree.find(static_cast<double>(i) + 0.5), i);
  }
}

TEST(a_weight_of_zero_is_never_found) {
  std::vector<double> weights(1000, 0.0);
  for (std::size_t i = 0; i < weights.size(); i += 7) weights[i] = 0.1 * static_cast<double>(i % 5 + 1);
  const SumTree tree = tree_of(weights);
  const CounterRandom random(1, 0);
  for (std::uint64_t i = 0; i < 20000; ++i) CHECK(weights[tree.find(random.uniform(i) * tree.total())] > 0.0);
  // The largest numbers that a draw can give, where rounding may pass the end.
  CHECK_EQ(tree.find(std::nextafter(tree.total(), 0.0)), 994u);
  CHECK_EQ(tree.find(tree.total()), 994u);
}

TEST(the_maximum_falls_again) {
  SumTree tree = tree_of({1.0, 5.0, 3.0});
  CHECK_EQ(tree.maximum(), 5.0);
  tree.set(1, 2.0);
  CHECK_EQ(tree.maximum(), 3.0);
}

TEST(the_last_of_a_repeated_index_counts) {
  SumTree tree(40);
  const std::vector<std::uint64_t> indices{3, 20, 3};
  const std::vector<double> weights{1.0, 2.0, 4.0};
  tree.set(indices, weights);
  CHECK_EQ(tree[3], 4.0);
  CHECK_EQ(tree.total(), 6.0);
  CHECK_EQ(tree.invariant_violation(), "");
}

// 10^7 updates over sixteen orders of magnitude: a tree that adds differences is off by far more than one
// rounding of the largest weight it ever held; this one equals, bit for bit, a tree built afresh.
TEST(nothing_drifts_in_ten_million_updates) {
  constexpr std::uint64_t kSize = 3000;
  SumTree tree(kSize);
  const CounterRandom random(2, 0);
  std::vector<std::uint64_t> indices(100);
  std::vector<double> weights(100);
  for (std::uint64_t call = 0; call < 100000; ++call) {
    for (std::uint64_t i = 0; i < 100; ++i) {
      const std::uint64_t bits = random.bits(call * 100 + i);
      indices[i] = bits % kSize;
      weights[i] = std::ldexp(1.0, static_cast<int>((bits >> 32) % 54));
    }
    tree.set(indices, weights);
  }
  CHECK_EQ(tree.invariant_violation(), "");
  long double exact = 0.0;
  for (std::uint64_t i = 0; i < kSize; ++i) exact += tree[i];
  CHECK(std::abs(static_cast<double>(exact) - tree.total()) <= 1e-12 * tree.total());
}

TEST(invariants_report_corruption) {
  SumTree tree = tree_of({1.0, 2.0, 3.0});
  tree.leaves()[1] = 5.0;
  CHECK(tree.invariant_violation().find("stale") != std::string::npos);
  tree.rebuild(0, tree.size());
  CHECK_EQ(tree.invariant_violation(), "");
  tree.leaves()[1] = -1.0;
  CHECK(tree.invariant_violation().find("no weight") != std::string::npos);
  tree.leaves()[1] = std::nan("");
  CHECK(tree.invariant_violation().find("no weight") != std::string::npos);
}
