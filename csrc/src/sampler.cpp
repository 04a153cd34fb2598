#include "fastdqn/detail/sampler.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace fastdqn {

void UniformSampler::draw(const std::vector<Lane>& lanes, const CounterRandom& random, std::uint64_t counter,
                          Span<Place> out) {
  ends_.clear();
  std::uint64_t total = 0;
  for (const Lane& lane : lanes) ends_.push_back(total += lane.sampleable());
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::uint64_t rank = random.below(counter + i, total);
    // The first lane whose end is above the rank; lanes with nothing to sample are never the first.
    const auto end = std::upper_bound(ends_.begin(), ends_.end(), rank);
    const std::uint64_t lane = static_cast<std::uint64_t>(end - ends_.begin());
    const std::uint64_t start = *end - lanes[lane].sampleable();
    out[i] = {lane, lanes[lane].first() + rank - start};
  }
}

PrioritySampler::PrioritySampler(std::uint64_t lanes, std::uint64_t ring, double alpha)
    : ring_(ring), alpha_(alpha), tree_(lanes * ring) {}

void PrioritySampler::follow(const Lane& lane, std::uint64_t lane_index, std::uint64_t first,
                             std::uint64_t closed) {
  const std::uint64_t left = std::min(lane.first(), closed);
  for (std::uint64_t s = first; s < left; ++s) tree_.set(leaf({lane_index, s}), 0.0);
  const double entering = any() ? tree_.maximum() : 1.0;
  for (std::uint64_t s = std::max(closed, lane.first()); s < lane.closed(); ++s) {
    tree_.set(leaf({lane_index, s}), entering);
  }
}

// A ring holds at most one sampleable transition a slot, so the slot and the lane's first one give the
// sequence number.
Place PrioritySampler::place_of(std::uint64_t leaf, const std::vector<Lane>& lanes) const noexcept {
  const std::uint64_t lane = leaf / ring_, slot = leaf % ring_;
  const std::uint64_t first = lanes[lane].first(), first_slot = first % ring_;
  return {lane, first + (slot >= first_slot ? slot - first_slot : slot + ring_ - first_slot)};
}

void PrioritySampler::draw(const std::vector<Lane>& lanes, const CounterRandom& random, std::uint64_t counter,
                           double beta, Span<Place> out, float* weights) const {
  const double total = tree_.total();
  double least = std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::uint64_t index = tree_.find(random.uniform(counter + i) * total);
    out[i] = place_of(index, lanes);
    least = std::min(least, tree_[index]);
  }
  // The largest weight is that of the least probable draw; the number of rows and the total cancel.
  for (std::size_t i = 0; i < out.size(); ++i) {
    weights[i] = static_cast<float>(std::pow(least / tree_[leaf(out[i])], beta));
  }
}

void PrioritySampler::update(Span<const Place> places, Span<const double> priorities) {
  leaves_.clear();
  weights_.clear();
  for (std::size_t i = 0; i < places.size(); ++i) {
    leaves_.push_back(leaf(places[i]));
    weights_.push_back(std::pow(priorities[i], alpha_));
  }
  tree_.set(leaves_, weights_);
}

std::string PrioritySampler::restore(const std::vector<Lane>& lanes) {
  for (std::uint64_t lane = 0; lane < lanes.size(); ++lane) {
    const std::uint64_t first = lane * ring_, filled = std::min(lanes[lane].appended(), ring_);
    for (std::uint64_t index = first; index < first + filled; ++index) {
      const std::string reason = leaf_violation(index, lanes);
      if (!reason.empty()) return reason;
    }
    tree_.rebuild(first, filled);
  }
  return "";
}

std::string PrioritySampler::leaf_violation(std::uint64_t index, const std::vector<Lane>& lanes) const {
  const double weight = tree_[index];
  // No priority to the power of alpha is larger, and sums of what is not stay finite.
  if (!(weight >= 0.0 && weight <= kLargest)) return "weight " + std::to_string(index) + " is no weight";
  const Place place = place_of(index, lanes);
  if (weight == 0.0 || lanes[place.lane].is_sampleable(place.sequence)) return "";
  return "transition slot " + std::to_string(index) + " has a priority but cannot be sampled";
}

std::string PrioritySampler::invariant_violation(const std::vector<Lane>& lanes) const {
  for (std::uint64_t index = 0; index < tree_.size(); ++index) {
    const std::string reason = leaf_violation(index, lanes);
    if (!reason.empty()) return reason;
  }
  return tree_.invariant_violation();
}

}  // namespace fastdqn
