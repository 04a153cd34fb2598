// The replay buffer again, slow and obvious: tests/reference/replay_oracle.py in C++, for runs of a million calls.
//
// It keeps whole stacks, twice where they overlap, and searches nothing. Only when a row leaves cannot be read off a
// list: that depends on how many frames a ring would have written, which write() counts by the documented rule.
// It expects valid calls.
#pragma once

#include <algorithm>
#include <cmath>
#include <deque>
#include <map>
#include <vector>

#include "replay_fixture.hpp"

namespace oracle {

using Bytes = std::vector<std::uint8_t>;

// One step of one environment, with both of its stacks in full.
struct Transition {
  Bytes obs, next_obs;
  std::int32_t action;
  float reward;
  bool terminated, truncated;
  std::uint64_t oldest_frame;  // number of the oldest frame that `obs` needs

  bool ends_episode() const { return terminated || truncated; }
};

// What sampling one row must deliver; the stacks are the oracle's.
struct Row {
  const Bytes *obs, *next_obs;
  std::int32_t action;
  double reward, discount;
};

class Oracle {
 public:
  explicit Oracle(const fastdqn::ReplayOptions& options)
      : o_(options), ring_(options.capacity / options.num_envs), bytes_(options.frame_bytes()) {
    for (std::uint64_t id = 0; id < o_.num_envs; ++id)
      envs_.push_back({id, Bytes(ring_ * bytes_), {}, {}, {}});
  }

  // Both return what the buffer has to report as written.
  std::vector<fastdqn::WrittenFrame> begin(const fixture::Rows& rows) {
    written_.clear();
    for (std::size_t i = 0; i < rows.env_id.size(); ++i) {
      Env& env = envs_[rows.env_id[i]];
      if (env.in_episode && !env.transitions.empty() && !env.transitions.back().terminated) {
        env.transitions.back().truncated = true;
      }
      begin_episode(env, i, stack_of(rows.observation, i));
    }
    return written_;
  }

  std::vector<fastdqn::WrittenFrame> add(const fixture::Rows& rows) {
    written_.clear();
    for (std::size_t i = 0; i < rows.env_id.size(); ++i) {
      Env& env = envs_[rows.env_id[i]];
      const Bytes given = stack_of(rows.observation, i);
      if (env.awaits_reset) {
        begin_episode(env, i, given);
        continue;
      }
      const bool done = rows.terminated[i] != 0 || rows.truncated[i] != 0;
      const bool final = done && o_.autoreset == fastdqn::Autoreset::kSameStep;
      const Bytes obs = env.last;
      const std::uint64_t oldest = env.written - 1 - env.depth;
      write(env, i, final ? stack_of(rows.final_observation, i) : given, false, final);
      env.transitions.push_back({obs, env.last, static_cast<std::int32_t>(rows.action[i]), rows.reward[i],
                                 rows.terminated[i] != 0, rows.truncated[i] != 0, oldest});
      env.in_episode = !done;
      env.awaits_reset = done && o_.autoreset == fastdqn::Autoreset::kNextStep;
      ++transitions_;
      settle(env);
      if (final) begin_episode(env, i, given);
    }
    return written_;
  }

  // Returns how many were dropped.
  std::size_t update_priorities(const std::vector<std::int64_t>& rows,
                                const std::vector<double>& priorities) {
    std::size_t dropped = 0;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      Env& env = envs_[static_cast<std::uint64_t>(rows[i]) % o_.num_envs];
      const auto found = env.priorities.find(rows[i]);
      if (found == env.priorities.end()) {
        ++dropped;
      } else {
        found->second = std::pow(priorities[i], o_.alpha);
      }
    }
    return dropped;
  }

  // What sampling such a row delivers.
  Row row(std::int64_t name) const {
    const auto number = static_cast<std::uint64_t>(name);
    const Env& env = envs_[number % o_.num_envs];
    const std::size_t first = number / o_.num_envs - env.first_sequence, length = window(env, first);
    const Transition &start = env.transitions.at(first), &last = env.transitions.at(first + length - 1);
    double reward = 0.0;
    for (std::size_t k = 0; k < length; ++k) {
      reward += std::pow(o_.gamma, k) * static_cast<double>(env.transitions[first + k].reward);
    }
    const double discount = last.terminated ? 0.0 : std::pow(o_.gamma, length);
    return {&start.obs, &last.next_obs, start.action, reward, discount};
  }

  // Every row that may be sampled now.
  std::vector<std::int64_t> rows() const {
    std::vector<std::int64_t> names;
    for (const Env& env : envs_) {
      for (const auto& priority : env.priorities) names.push_back(priority.first);
    }
    return names;
  }

  // Priority^alpha of a row; negative where it may not be sampled.
  double priority(std::int64_t row) const {
    const Env& env = envs_[static_cast<std::uint64_t>(row) % o_.num_envs];
    const auto found = env.priorities.find(row);
    return found == env.priorities.end() ? -1.0 : found->second;
  }
  bool any_likely() const { return largest_priority() > 0.0; }
  bool is_overwritten(std::int64_t row) const {
    const auto number = static_cast<std::uint64_t>(row);
    return number / o_.num_envs < envs_[number % o_.num_envs].first_sequence;
  }

  // The frames by global slot; zeros where none was written.
  Bytes frames() const {
    Bytes all;
    for (const Env& env : envs_) all.insert(all.end(), env.frames.begin(), env.frames.end());
    return all;
  }
  std::uint64_t transitions() const { return transitions_; }
  std::uint64_t whole_stacks() const { return whole_stacks_; }
  std::uint64_t frames_written() const {
    std::uint64_t total = 0;
    for (const Env& env : envs_) total += env.written;
    return total;
  }

 private:
  // All that happened in one environment.
  struct Env {
    std::uint64_t id;
    Bytes frames;  // by slot
    Bytes last;    // the last stack; empty before the first
    std::deque<Transition> transitions;
    std::map<std::int64_t, double> priorities;  // priority^alpha of the rows that may be sampled
    std::uint64_t written = 0, first_sequence = 0;
    std::uint32_t depth = 0;  // distinct frames of the last stack before its newest one
    bool in_episode = false, awaits_reset = false;
  };

  Bytes stack_of(const Bytes& stacks, std::size_t row) const {
    const auto begin = stacks.begin() + static_cast<std::ptrdiff_t>(row * o_.stack * bytes_);
    return Bytes(begin, begin + static_cast<std::ptrdiff_t>(o_.stack * bytes_));
  }

  void begin_episode(Env& env, std::size_t row, const Bytes& stack) {
    write(env, row, stack, true, false);
    env.in_episode = true;
    env.awaits_reset = false;
    settle(env);
  }

  // One frame where the stack continues the last one, else all but the copies that follow its oldest one.
  void write(Env& env, std::size_t row, const Bytes& stack, bool first, bool final) {
    std::uint32_t kept = 1;
    if (!env.last.empty() &&
        std::equal(env.last.begin() + static_cast<std::ptrdiff_t>(bytes_), env.last.end(), stack.begin())) {
      env.depth = std::min(env.depth + 1, o_.stack - 1);
    } else {
      std::uint32_t copies = 1;
      while (copies < o_.stack &&
             std::equal(frame(stack, copies), frame(stack, copies) + bytes_, frame(stack, 0))) {
        ++copies;
      }
      kept = 1 + o_.stack - copies;
      env.depth = kept - 1;
      whole_stacks_ += kept == o_.stack && o_.stack > (first ? 2U : 1U);
    }
    for (std::uint32_t i = o_.stack - kept; i < o_.stack; ++i) {
      const std::uint64_t slot = env.written++ % ring_;
      std::copy(frame(stack, i), frame(stack, i) + bytes_, env.frames.data() + slot * bytes_);
      written_.push_back(
          {static_cast<std::int64_t>(env.id * ring_ + slot), static_cast<std::int64_t>(row), i, final});
    }
    env.last = stack;
  }
  const std::uint8_t* frame(const Bytes& stack, std::uint32_t index) const {
    return stack.data() + index * bytes_;
  }

  // The length of the n-step window from a transition on; 0 while it is open.
  std::size_t window(const Env& env, std::size_t first) const {
    for (std::size_t length = 1; first + length <= env.transitions.size(); ++length) {
      if (env.transitions[first + length - 1].ends_episode() || length == o_.n_step) return length;
    }
    return 0;
  }

  double largest_priority() const {
    double largest = 0.0;
    for (const Env& env : envs_) {
      for (const auto& priority : env.priorities) largest = std::max(largest, priority.second);
    }
    return largest;
  }

  // Forgets what can never come back, and gives rows that enter the largest priority.
  void settle(Env& env) {
    while (!env.transitions.empty() && env.transitions.front().oldest_frame + ring_ < env.written) {
      env.transitions.pop_front();
      ++env.first_sequence;
    }
    std::map<std::int64_t, double> before;
    before.swap(env.priorities);
    std::vector<std::int64_t> entering;
    for (std::size_t i = 0; i < env.transitions.size(); ++i) {
      if (env.transitions[i].oldest_frame + ring_ < env.written + o_.guard_frames) continue;
      if (window(env, i) == 0) continue;
      const auto row = static_cast<std::int64_t>((env.first_sequence + i) * o_.num_envs + env.id);
      const auto known = before.find(row);
      if (known == before.end()) {
        entering.push_back(row);
      } else {
        env.priorities.insert(env.priorities.end(), *known);
      }
    }
    const double largest = largest_priority();
    for (const std::int64_t row : entering) env.priorities[row] = largest > 0.0 ? largest : 1.0;
  }

  const fastdqn::ReplayOptions o_;
  const std::uint64_t ring_;
  const std::size_t bytes_;
  std::vector<Env> envs_;
  std::vector<fastdqn::WrittenFrame> written_;  // by the present call
  std::uint64_t transitions_ = 0, whole_stacks_ = 0;
};

}  // namespace oracle
