// NStep: folds up to n following transitions of one episode into one return, discount and next observation.
//
//   reward   = sum over k < m of gamma^k * reward_k        discount = gamma^m * (1 - terminated of the last)
//
// m, the window's true length, is n or less: the window ends with its episode. A truncated window keeps its
// discount, so the learner bootstraps from the true last observation; where a step is both, terminated wins.
// n = 1 is no case of its own.
//
// Complexity: O(m). Sums are kept in double and rounded to float once. Threads: immutable. Exceptions: none.
#pragma once

#include <cstdint>
#include <vector>

#include "fastdqn/detail/transition.hpp"

namespace fastdqn {

struct NStepResult {
  float reward;
  float discount;
  std::uint32_t length;  // m, at least 1
};

class NStep {
 public:
  // n >= 1 steps; gamma in [0, 1] a step.
  NStep(std::uint32_t n, double gamma);

  std::uint32_t n() const noexcept { return static_cast<std::uint32_t>(powers_.size()) - 1; }
  double gamma() const noexcept { return gamma_; }

  // Folds the window that starts at `sequence`; it must be closed (Lane::closed() > sequence).
  NStepResult fold(const TransitionRing& transitions, std::uint64_t sequence) const noexcept;

 private:
  double gamma_;
  std::vector<double> powers_;  // gamma^0 ... gamma^n
};

}  // namespace fastdqn
