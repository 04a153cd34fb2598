// UniformSampler: draws rows uniformly over the sampleable transitions of all lanes.
//
// The lanes' ranges are laid end to end (prefix sums) and a number below their total length names one
// transition: exact, with replacement, without rejection, however unequal the lanes are.
//
// Complexity: O(lanes) a batch, O(log lanes) a draw. Threads: none of its own. Exceptions: std::bad_alloc.
#pragma once

#include <cstdint>
#include <vector>

#include "fastdqn/lane.hpp"
#include "fastdqn/random.hpp"
#include "fastdqn/span.hpp"

namespace fastdqn {

// A transition's place: the lane (environment) and its sequence number there.
struct Place {
  std::uint64_t lane;
  std::uint64_t sequence;
};

class UniformSampler {
 public:
  // Draws `out.size()` places with the random numbers `counter`, `counter` + 1, ... of `random`.
  // There must be something sampleable.
  void draw(const std::vector<Lane>& lanes, const CounterRandom& random, std::uint64_t counter,
            Span<Place> out);

 private:
  std::vector<std::uint64_t> ends_;  // ends_[i]: sampleable transitions of lanes 0 ... i
};

}  // namespace fastdqn
