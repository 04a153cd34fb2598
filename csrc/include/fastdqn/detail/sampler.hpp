// The two ways to draw transitions: uniformly, or in proportion to priorities. Both draw with replacement and
// without rejection, and both need one random number a draw, so that the counter alone is the state of the
// random stream.
//
// Threads: none of their own; Replay's mutex guards them. Exceptions: std::bad_alloc.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "fastdqn/detail/lane.hpp"
#include "fastdqn/detail/random.hpp"
#include "fastdqn/detail/sum_tree.hpp"
#include "fastdqn/span.hpp"

namespace fastdqn {

// A transition's place: the lane (environment) and its sequence number there.
struct Place {
  std::uint64_t lane;
  std::uint64_t sequence;
};

// Uniform over the sampleable transitions of all lanes. The lanes' ranges are laid end to end (prefix sums),
// and a number below their total length names one transition: exact, however unequal the lanes are.
class UniformSampler {
 public:
  // Draws `out.size()` places with the random numbers `counter`, `counter` + 1, ... of `random`. There must
  // be something sampleable. O(lanes + out.size() * log lanes).
  void draw(const std::vector<Lane>& lanes, const CounterRandom& random, std::uint64_t counter,
            Span<Place> out);

 private:
  std::vector<std::uint64_t> ends_;  // ends_[i]: sampleable transitions of lanes 0 ... i
};

// Proportional to priority^alpha (Schaul et al. 2016), with independent draws. The tree stores
// priority^alpha, one leaf a transition slot; a leaf is zero unless its transition is sampleable.
//
// A transition enters with the largest priority among those that are sampleable now, or 1 where that is zero:
// the maximum falls again when the rows that raised it are updated or overwritten.
class PrioritySampler {
 public:
  // Priorities above this are refused, so that no sum of them overflows.
  static constexpr double kLargest = 1e100;

  // `ring` transition slots for each of `lanes` lanes; 0 < alpha <= 1.
  PrioritySampler(std::uint64_t lanes, std::uint64_t ring, double alpha);

  // Follows a lane that has changed: `first` and `closed` are its bounds of before. O(1) tree updates a
  // transition that entered or left.
  void follow(const Lane& lane, std::uint64_t lane_index, std::uint64_t first, std::uint64_t closed);

  // Whether anything can be drawn: false where all priorities are zero.
  bool any() const noexcept { return tree_.total() > 0.0; }

  // Draws as UniformSampler does, and writes the importance weights (1 / probability)^beta, divided by the
  // largest of the batch. O(out.size() * levels of the tree).
  void draw(const std::vector<Lane>& lanes, const CounterRandom& random, std::uint64_t counter, double beta,
            Span<Place> out, float* weights) const;

  // Sets priorities, each finite and within 0 ... kLargest; of a place that repeats, the last counts. Places
  // must be sampleable. O(places.size() * levels of the tree).
  void update(Span<const Place> places, Span<const double> priorities);

  // Makes the rest of the tree after its leaves were written, and returns what invariant_violation() would of
  // them. Only slots that the lanes have filled are visited: O(filled slots), in time and in memory.
  std::string restore(const std::vector<Lane>& lanes);

  SumTree& tree() noexcept { return tree_; }
  const SumTree& tree() const noexcept { return tree_; }

  // "" if the tree is sound and only sampleable transitions have weights. O(slots).
  std::string invariant_violation(const std::vector<Lane>& lanes) const;

 private:
  std::uint64_t leaf(const Place& place) const noexcept {
    return place.lane * ring_ + place.sequence % ring_;
  }
  Place place_of(std::uint64_t leaf, const std::vector<Lane>& lanes) const noexcept;
  std::string leaf_violation(std::uint64_t leaf, const std::vector<Lane>& lanes) const;

  std::uint64_t ring_;
  double alpha_;
  SumTree tree_;
  std::vector<std::uint64_t> leaves_;  // scratch of update()
  std::vector<double> weights_;        // the same
};

}  // namespace fastdqn
