// A replay of tiny frames with rows written as numbers, for tests of the whole buffer.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <vector>

#include "fastdqn/replay.hpp"

namespace fixture {

using fastdqn::ReplayOptions;

// Every test of the whole buffer runs twice: with raw frames, and with FASTDQN_TEST_STORAGE=delta.
inline fastdqn::Storage storage() {
  return std::getenv("FASTDQN_TEST_STORAGE") == nullptr ? fastdqn::Storage::kRaw : fastdqn::Storage::kDelta;
}

// Frames of one byte, stacks of two.
inline ReplayOptions options(std::uint64_t capacity, std::uint64_t num_envs = 1) {
  ReplayOptions o;
  o.capacity = capacity;
  o.num_envs = num_envs;
  o.frame_shape = {1};
  o.stack = 2;
  o.gamma = 0.5;
  o.storage = storage();
  return o;
}

// The rows of one call, owned.
struct Rows {
  std::vector<std::int64_t> env_id, action;
  std::vector<std::uint8_t> observation, final_observation;
  std::vector<float> reward;
  std::vector<std::uint8_t> terminated, truncated;

  Rows& row(std::int64_t env, std::int64_t a, std::vector<std::uint8_t> stack, float r = 0.0f,
            bool term = false, bool trunc = false) {
    env_id.push_back(env);
    action.push_back(a);
    observation.insert(observation.end(), stack.begin(), stack.end());
    reward.push_back(r);
    terminated.push_back(term);
    truncated.push_back(trunc);
    return *this;
  }
  Rows& final(std::vector<std::uint8_t> stack) {
    final_observation.insert(final_observation.end(), stack.begin(), stack.end());
    return *this;
  }

  fastdqn::BeginRows begin() const { return {env_id.size(), observation.data(), env_id.data()}; }
  fastdqn::AddRows add() const {
    return {env_id.size(),
            action.data(),
            observation.data(),
            reward.data(),
            reinterpret_cast<const bool*>(terminated.data()),
            reinterpret_cast<const bool*>(truncated.data()),
            env_id.data(),
            final_observation.empty() ? nullptr : final_observation.data()};
  }
};

// The arrays of a batch, owned.
struct Batch {
  Batch(std::size_t size, std::size_t stack_bytes, std::size_t window_bytes)
      : obs(size * stack_bytes),
        next_obs(size * stack_bytes),
        window(size * window_bytes),
        action(size),
        row(size),
        reward(size),
        discount(size),
        weight(size) {}

  fastdqn::BatchView view() {
    return {obs.data(),    next_obs.data(), window.data(), action.data(),
            reward.data(), discount.data(), weight.data(), row.data()};
  }

  std::vector<std::uint8_t> obs, next_obs, window;
  std::vector<std::int64_t> action, row;
  std::vector<float> reward, discount, weight;
};

}  // namespace fixture
