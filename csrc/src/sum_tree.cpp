#include "fastdqn/detail/sum_tree.hpp"

#include <algorithm>
#include <cmath>

namespace fastdqn {
namespace {

constexpr std::uint64_t padded(std::uint64_t count) {
  return (count + SumTree::kArity - 1) / SumTree::kArity * SumTree::kArity;
}

}  // namespace

SumTree::SumTree(std::uint64_t size) : size_(size) {
  // Every level below the root is padded with zeros to whole nodes, so that no loop needs a bound of its own.
  std::uint64_t count = padded(size), offset = count;
  levels_.push_back({0, count});
  while (count > 1) {
    const std::uint64_t nodes = count / kArity;
    count = nodes == 1 ? 1 : padded(nodes);
    levels_.push_back({offset, count});
    offset += 2 * count;
  }
  memory_ = Pages(offset * sizeof(double));
}

void SumTree::recompute(std::size_t level, std::uint64_t node) noexcept {
  const double* child_sums = sums(level - 1) + node * kArity;
  const double* child_maxima = maxima(level - 1) + node * kArity;
  // Four partial sums in a fixed order: the same result always, and the additions need not wait for each
  // other.
  double partial[4] = {0.0, 0.0, 0.0, 0.0}, most[4] = {0.0, 0.0, 0.0, 0.0};
  for (std::uint64_t i = 0; i < kArity; ++i) {
    partial[i % 4] += child_sums[i];
    most[i % 4] = std::max(most[i % 4], child_maxima[i]);
  }
  sums(level)[node] = (partial[0] + partial[1]) + (partial[2] + partial[3]);
  maxima(level)[node] = std::max(std::max(most[0], most[1]), std::max(most[2], most[3]));
}

void SumTree::set(std::uint64_t index, double weight) noexcept { set({&index, 1}, {&weight, 1}); }

void SumTree::set(Span<const std::uint64_t> indices, Span<const double> weights) noexcept {
  for (std::size_t i = 0; i < indices.size(); ++i) leaves()[indices[i]] = weights[i];
  std::uint64_t span = kArity;  // leaves below a node
  for (std::size_t level = 1; level < levels_.size(); ++level, span *= kArity) {
    for (std::size_t i = 0; i < indices.size(); ++i) {
      const std::uint64_t node = indices[i] / span;
      if (i == 0 || node != indices[i - 1] / span) recompute(level, node);
    }
  }
}

std::uint64_t SumTree::find(double prefix) const noexcept {
  std::uint64_t node = 0;
  for (std::size_t level = root_level(); level > 0; --level) {
    const double* children = sums(level - 1) + node * kArity;
    std::uint64_t chosen = 0;
    double before_chosen = 0.0, before = 0.0;
    for (std::uint64_t i = 0; i < kArity; ++i) {
      if (children[i] <= 0.0) continue;
      chosen = i;
      before_chosen = before;
      before += children[i];
      if (prefix < before) break;
    }
    // Past the end by rounding: the last child with a weight was chosen, and the remainder stays above its
    // share, which chooses its last child in turn.
    prefix -= before_chosen;
    node = node * kArity + chosen;
  }
  return node;
}

void SumTree::rebuild(std::uint64_t first, std::uint64_t count) noexcept {
  if (count == 0) return;
  std::uint64_t last = first + count - 1;
  for (std::size_t level = 1; level < levels_.size(); ++level) {
    first /= kArity;
    last /= kArity;
    for (std::uint64_t node = first; node <= last; ++node) recompute(level, node);
  }
}

std::string SumTree::invariant_violation() const {
  for (std::uint64_t i = 0; i < levels_[0].count; ++i) {
    const double weight = leaves()[i];
    if (!(weight >= 0.0) || !std::isfinite(weight)) return "weight " + std::to_string(i) + " is no weight";
    if (i >= size_ && weight != 0.0) return "a weight behind the last";
  }
  SumTree fresh(size_);
  std::copy(leaves(), leaves() + size_, fresh.leaves());
  fresh.rebuild(0, size_);
  for (std::size_t level = 1; level < levels_.size(); ++level) {
    for (std::uint64_t node = 0; node < levels_[level].count; ++node) {
      const bool same =
          sums(level)[node] == fresh.sums(level)[node] && maxima(level)[node] == fresh.maxima(level)[node];
      if (!same) return "node " + std::to_string(node) + " of level " + std::to_string(level) + " is stale";
    }
  }
  return "";
}

}  // namespace fastdqn
