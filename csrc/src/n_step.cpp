#include "fastdqn/detail/n_step.hpp"

#include <cmath>

namespace fastdqn {

NStep::NStep(std::uint32_t n, double gamma) : gamma_(gamma), powers_(n + 1) {
  for (std::uint32_t k = 0; k <= n; ++k) powers_[k] = std::pow(gamma, k);
}

NStepResult NStep::fold(const TransitionRing& transitions, std::uint64_t sequence) const noexcept {
  double reward = 0.0;
  for (std::uint32_t k = 0;; ++k) {
    const Transition& step = transitions[sequence + k];
    reward += powers_[k] * static_cast<double>(step.reward);
    if (k + 1 == n() || step.ends_episode()) {
      const double discount = step.terminated() ? 0.0 : powers_[k + 1];
      return {static_cast<float>(reward), static_cast<float>(discount), k + 1};
    }
  }
}

}  // namespace fastdqn
