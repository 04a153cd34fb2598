// SumTree: non-negative weights by index, their sum, their maximum, and the index at a prefix of the sum.
//
// Sixteen children a node: a million leaves are five levels, and a node's children are two cache lines. Every
// change recomputes its ancestors from their children instead of adding a difference, so rounding errors
// never accumulate: the tree after 10^7 updates equals, bit for bit, one built afresh from the same leaves.
// Sum and maximum share the leaves.
//
// Memory: 9.1 bytes a leaf (8, and a fifteenth of 16 for the nodes above), as Pages (nothing until it is
// written). Threads: none of its own; Replay's mutex guards it.
// Exceptions: OutOfMemory at construction, else none.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "fastdqn/detail/pages.hpp"
#include "fastdqn/span.hpp"

namespace fastdqn {

class SumTree {
 public:
  static constexpr std::uint64_t kArity = 16;
  static constexpr double kBytesPerLeaf = 8.0 + 2.0 * 8.0 / (kArity - 1);

  // All weights are zero. `size` >= 1.
  explicit SumTree(std::uint64_t size);

  std::uint64_t size() const noexcept { return size_; }
  double operator[](std::uint64_t index) const noexcept { return leaves()[index]; }
  double total() const noexcept { return sums(root_level())[0]; }
  double maximum() const noexcept { return maxima(root_level())[0]; }

  // Sets one weight, finite and >= 0. O(16 * levels).
  void set(std::uint64_t index, double weight) noexcept;

  // Sets several; where an index repeats, its last weight counts. O(16 * levels) each, less for neighbours.
  void set(Span<const std::uint64_t> indices, Span<const double> weights) noexcept;

  // The index i whose share [sum of weights before i, that + weight i) contains `prefix`. Never one of weight
  // zero, even where rounding puts the prefix past the end. 0 <= prefix < total(), total() > 0.
  // O(16 * levels).
  std::uint64_t find(double prefix) const noexcept;

  // The memory of all weights, in order: what saving and restoring moves. After writing to it, call
  // rebuild().
  double* leaves() noexcept { return level_data(0); }
  const double* leaves() const noexcept { return level_data(0); }

  // Recomputes the nodes above the weights first ... first + count - 1. O(count), and no memory is touched
  // but theirs and the nodes'.
  void rebuild(std::uint64_t first, std::uint64_t count) noexcept;

  std::uint64_t allocated_bytes() const noexcept { return memory_.size(); }

  // "" if every node is what its children make it, else which is not. O(size).
  std::string invariant_violation() const;

 private:
  struct Level {
    std::uint64_t offset;  // of its sums, in doubles
    std::uint64_t count;   // nodes, a multiple of 16 except at the root
  };

  std::size_t root_level() const noexcept { return levels_.size() - 1; }
  double* level_data(std::size_t level) const noexcept {
    return reinterpret_cast<double*>(memory_.data()) + levels_[level].offset;
  }
  // Level 0 is its own maximum; above, the maxima follow the sums.
  double* sums(std::size_t level) const noexcept { return level_data(level); }
  double* maxima(std::size_t level) const noexcept {
    return level == 0 ? level_data(0) : level_data(level) + levels_[level].count;
  }
  void recompute(std::size_t level, std::uint64_t node) noexcept;

  std::uint64_t size_;
  std::vector<Level> levels_;
  Pages memory_;
};

}  // namespace fastdqn
