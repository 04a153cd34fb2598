// A program of somebody else's that uses the replay: both CMake projects beside this file build it.
#include <algorithm>
#include <cstdio>
#include <vector>

#include "fastdqn/replay.hpp"

int main() {
  fastdqn::ReplayOptions options;
  options.capacity = 1000;
  options.num_envs = 2;
  options.alpha = 0.5;
  fastdqn::Replay replay(options);

  const std::size_t frame = options.frame_bytes(), observation_bytes = options.stack * frame;
  std::vector<std::uint8_t> observation(2 * observation_bytes, 0);
  replay.begin({2, observation.data(), nullptr}, nullptr);
  const std::vector<std::int64_t> action(2, 1);
  const std::vector<float> reward(2, 0.5f);
  const bool flags[2] = {false, false};
  for (int step = 0; step < 700; ++step) {
    for (std::size_t env = 0; env < 2; ++env) {
      std::uint8_t* stack = observation.data() + env * observation_bytes;
      std::copy(stack + frame, stack + observation_bytes, stack);
      std::fill(stack + 3 * frame, stack + 4 * frame, static_cast<std::uint8_t>(step % 250 + 1));
    }
    replay.add({2, action.data(), observation.data(), reward.data(), flags, flags, nullptr, nullptr},
               nullptr);
  }

  constexpr std::size_t kBatch = 32;
  std::vector<std::uint8_t> obs(kBatch * observation_bytes), next_obs(kBatch * observation_bytes);
  std::vector<std::int64_t> actions(kBatch), rows(kBatch);
  std::vector<float> rewards(kBatch), discounts(kBatch), weights(kBatch);
  replay.sample(kBatch, 0.4,
                {obs.data(), next_obs.data(), nullptr, actions.data(), rewards.data(), discounts.data(),
                 weights.data(), rows.data()});
  replay.update_priorities(rows, std::vector<double>(kBatch, 2.0));
  for (std::size_t i = 0; i < kBatch; ++i) {
    const std::uint8_t newest = obs[i * observation_bytes + 3 * frame],
                       after = next_obs[i * observation_bytes + 3 * frame];
    if (after != newest % 250 + 1 || rewards[i] != 0.5f || discounts[i] != 0.99f) return 1;
  }
  std::printf("%llu transitions can be sampled\n", static_cast<unsigned long long>(replay.size()));
  return replay.invariant_violation().empty() ? 0 : 1;
}
