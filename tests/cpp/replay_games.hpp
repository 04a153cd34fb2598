// Made-up games, all of whose frames and ends come from a seed: what random operations feed a buffer with.
#pragma once

#include <initializer_list>
#include <random>
#include <utility>
#include <vector>

#include "replay_fixture.hpp"

namespace games {

using fastdqn::Autoreset;
using fastdqn::Layout;
using fastdqn::ReplayOptions;
using Bytes = std::vector<std::uint8_t>;
using Ids = std::vector<std::int64_t>;

class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}
  std::uint64_t below(std::uint64_t limit) { return engine_() % limit; }
  bool chance(unsigned percent) { return below(100) < percent; }
  std::uint8_t byte() { return static_cast<std::uint8_t>(engine_()); }
  template <class T>
  T pick(std::initializer_list<T> choices) {
    return *(choices.begin() + below(choices.size()));
  }

 private:
  std::mt19937_64 engine_;
};

inline ReplayOptions random_options(Random& random) {
  ReplayOptions o;
  o.storage = fixture::storage();
  o.num_envs = 1 + random.below(4);
  o.stack = static_cast<std::uint32_t>(1 + random.below(4));
  o.layout = random.pick({Layout::kSeparate, Layout::kSeparate, Layout::kWindow});
  o.n_step = o.layout == Layout::kWindow ? 1 : static_cast<std::uint32_t>(1 + random.below(5));
  o.guard_frames = random.pick<std::uint64_t>({0, 0, 1, 3});
  o.gamma = random.pick({0.99, 0.5, 1.0});
  o.alpha = random.pick({0.0, 0.0, 0.5, 1.0});
  o.autoreset = random.pick({Autoreset::kNextStep, Autoreset::kSameStep, Autoreset::kDisabled});
  o.frame_shape = random.pick<std::vector<std::uint64_t>>(
      {{1}, {7}, {33}, {100}, {10, 10}, {7, 9}, {3, 5}, {2, 3, 4}, {64}, {5, 52}});
  const std::uint64_t slack = random.pick<std::uint64_t>({0, 1, 5, 12, 25, 60, 120});
  o.capacity = (o.stack + o.n_step + o.guard_frames + slack) * o.num_envs + random.below(o.num_envs);
  o.seed = random.below(1000);
  return o;
}

// The frame after `before`: nothing changes, little, much or all of it, or the screen goes black.
inline Bytes next_frame(const Bytes& before, Random& random) {
  Bytes frame = before;
  const std::uint64_t kind = random.below(10);
  if (kind == 0) return frame;
  if (kind == 1) return Bytes(frame.size(), 0);
  const std::size_t changes = kind < 6 ? 1 + random.below(3) : kind < 8 ? frame.size() / 3 + 1 : frame.size();
  for (std::size_t i = 0; i < changes; ++i) {
    frame[changes == frame.size() ? i : random.below(frame.size())] = random.byte();
  }
  return frame;
}

// What a step brings.
struct Answer {
  Bytes observation, final_observation;
  bool terminated = false, truncated = false;
};

// The environments of a buffer, whose contract they keep: stacks, ends and resets are what its options allow.
class Games {
 public:
  Games(const ReplayOptions& options, Random& random)
      : o_(options),
        bytes_(options.frame_bytes()),
        random_(random),
        games_(options.num_envs),
        jumps_(options.layout == Layout::kWindow ? 0 : random.pick<unsigned>({0, 0, 5, 40})),
        ends_(random.pick<unsigned>({1, 10, 40})) {
    for (Game& game : games_) game.stack.resize(o_.stack * bytes_);
  }

  const Bytes& begin(std::int64_t id) {
    Game& game = games_[id];
    game.begun = true;
    game.done = false;
    return game.stack = first_stack(game);
  }

  Answer step(std::int64_t id) {
    Game& game = games_[id];
    Answer answer;
    if (game.done) {  // autoreset kNextStep
      game.done = false;
      answer.observation = game.stack = first_stack(game);
      return answer;
    }
    answer.observation = answer.final_observation = game.stack = following(game);
    if (random_.chance(ends_)) {
      const std::uint64_t how = random_.below(3);
      answer.terminated = how != 0;
      answer.truncated = how != 1;
      game.done = o_.autoreset != Autoreset::kSameStep;
      if (!game.done) answer.observation = game.stack = first_stack(game);
    }
    return answer;
  }

  // A stack that the environment could show next, without its taking the step.
  Bytes peek(std::int64_t id) { return following(games_[id]); }

  // Some of the environments in any order, or all of them: those that have an episode, and where asked for those
  // that have none yet and those whose episode is over.
  Ids choose(bool unbegun, bool done) {
    Ids ids;
    for (std::size_t id = 0; id < games_.size(); ++id) {
      if ((games_[id].begun || unbegun) && (!games_[id].done || done)) {
        ids.push_back(static_cast<std::int64_t>(id));
      }
    }
    if (random_.chance(50)) return ids;
    for (std::size_t i = ids.size(); i > 1; --i) std::swap(ids[i - 1], ids[random_.below(i)]);
    if (!ids.empty()) ids.resize(1 + random_.below(ids.size()));
    return ids;
  }

  bool is_everyone(const Ids& ids) const {
    if (ids.size() != games_.size()) return false;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] != static_cast<std::int64_t>(i)) return false;
    }
    return true;
  }

 private:
  // One environment: the last stack that it showed, oldest frame first.
  struct Game {
    Bytes stack;
    bool begun = false, done = false;
  };

  // The first stack of an episode: copies of a frame, black ones before it, or any.
  Bytes first_stack(const Game& game) {
    Bytes frame(game.stack.end() - static_cast<std::ptrdiff_t>(bytes_), game.stack.end()), stack;
    const std::uint64_t kind = random_.below(4);
    if (kind == 0) return game.stack;
    frame = next_frame(frame, random_);
    for (std::uint32_t i = 0; i < o_.stack; ++i) {
      const bool black = kind == 1 && i + 1 < o_.stack;
      if (kind == 2 && i > 0) frame = next_frame(frame, random_);
      const Bytes shown = black ? Bytes(bytes_, 0) : frame;
      stack.insert(stack.end(), shown.begin(), shown.end());
    }
    return stack;
  }

  Bytes following(const Game& game) {
    if (random_.chance(jumps_)) return first_stack(game);
    Bytes stack(game.stack.begin() + static_cast<std::ptrdiff_t>(bytes_), game.stack.end());
    const Bytes last(game.stack.end() - static_cast<std::ptrdiff_t>(bytes_), game.stack.end());
    const Bytes frame = next_frame(last, random_);
    stack.insert(stack.end(), frame.begin(), frame.end());
    return stack;
  }

  const ReplayOptions o_;
  const std::size_t bytes_;
  Random& random_;
  std::vector<Game> games_;
  const unsigned jumps_, ends_;  // how often, in percent
};

}  // namespace games
