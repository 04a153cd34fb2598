#include "fastdqn/sampler.hpp"

#include <algorithm>

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

}  // namespace fastdqn
