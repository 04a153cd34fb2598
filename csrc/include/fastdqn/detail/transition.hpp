// Transition: one step of one environment in 16 bytes. TransitionRing: the last of them, by sequence number.
//
// A transition points at two stacks of the FrameRing. Every transition is followed by at least one new frame,
// so as many transition slots as frame slots are always enough: a transition is overwritten after its frames,
// never before.
//
// Ownership: the ring borrows its memory. Threads: none of its own; Replay's mutex guards it.
// Exceptions: none.
#pragma once

#include <cstdint>

#include "fastdqn/detail/frame_store.hpp"

namespace fastdqn {

struct Transition {
  static constexpr std::uint8_t kTerminated = 1;
  static constexpr std::uint8_t kTruncated = 2;

  std::uint32_t obs_newest_low;  // the low 32 bits of the observation's newest frame number
  std::int32_t action;
  float reward;
  std::uint8_t next_distance;  // newest frame of the next observation minus that of this one: 1 to stack
  std::uint8_t obs_depth;      // StackRef::depth of the observation
  std::uint8_t next_depth;     // StackRef::depth of the next observation
  std::uint8_t flags;          // kTerminated | kTruncated

  bool ends_episode() const noexcept { return flags != 0; }
  bool terminated() const noexcept { return (flags & kTerminated) != 0; }

  // The observation's stack. `written` is FrameRing::written(): the frame is fewer than 2^32 frames back,
  // which gives the high bits. Meaningful only while the observation's frames are live.
  StackRef observation(std::uint64_t written) const noexcept {
    const std::uint32_t age = static_cast<std::uint32_t>(written) - obs_newest_low;
    return {written - age, obs_depth};
  }

  // The next observation's stack, under the same condition.
  StackRef next_observation(std::uint64_t written) const noexcept {
    return {observation(written).newest + next_distance, next_depth};
  }
};
static_assert(sizeof(Transition) == 16, "the memory budget and the file format count on 16 bytes");

class TransitionRing {
 public:
  TransitionRing(Transition* memory, std::uint64_t ring) noexcept : memory_(memory), ring_(ring) {}

  Transition& operator[](std::uint64_t sequence) noexcept { return memory_[sequence % ring_]; }
  const Transition& operator[](std::uint64_t sequence) const noexcept { return memory_[sequence % ring_]; }

  // Asks the processor to fetch a transition that will be read soon. Changes nothing but speed.
  void prefetch(std::uint64_t sequence) const noexcept {
#if defined(__GNUC__)
    __builtin_prefetch(memory_ + sequence % ring_);
#else
    (void)sequence;
#endif
  }

 private:
  Transition* memory_;
  std::uint64_t ring_;
};

}  // namespace fastdqn
