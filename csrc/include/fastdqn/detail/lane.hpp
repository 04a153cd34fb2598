// Lane: all that the replay knows of one environment: its frames, its transitions, and which may be sampled.
//
// A lane is changed by two calls, begin() and step(), each given a stack that was classified beforehand.
// Classifying reads only, so that a whole call of many rows is checked before anything changes.
//
// Sequence numbers count a lane's transitions: 0, 1, 2, ... Those that can be sampled are the range
// [first(), closed()):
//
// - closed(): every earlier transition has a closed n-step window: n transitions of its episode exist from it
//   on, or its episode has ended;
// - first(): it and every later transition have an observation whose oldest frame survives `guard_frames`
//   more frames;
// - intact(): the same with a guard of zero: their pixels are still there.
//
// The oldest frame never decreases from one transition to the next, hence ranges and not sets.
//
// Threads: none of its own; Replay's mutex guards it. Exceptions: none; preconditions are unchecked.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "fastdqn/detail/frame_store.hpp"
#include "fastdqn/detail/n_step.hpp"
#include "fastdqn/detail/transition.hpp"

namespace fastdqn {

// How a given stack is kept: one that continues the lane's last one by its newest frame alone, any other from
// the last copy of its oldest frame on. So a stack of copies costs one frame, one that is padded in front
// (with zeros, say) the padding once beside its true frames, and one without such copies all of its frames.
struct Intake {
  bool continues = false;   // its older frames are the lane's last ones
  std::uint32_t depth = 0;  // StackRef::depth once stored

  // Frames that storing it writes.
  std::uint32_t frames() const noexcept { return continues ? 1 : depth + 1; }

  // Whether nothing of it could be shared.
  bool whole(std::uint32_t stack) const noexcept { return !continues && stack > 1 && depth + 1 == stack; }
};

// One frame that was written, and where its pixels came from: what a mirror of the store needs to follow.
struct WrittenFrame {
  std::int64_t slot;          // environment * ring + slot in the ring
  std::int64_t source_row;    // row of the call
  std::int64_t source_index;  // index in that row's stack
  bool source_final;          // the row was of final_observation, not of observation
};

// One step as the environment answered it.
struct Step {
  std::int32_t action;
  float reward;
  bool terminated;
  bool truncated;
};

struct LaneOptions {
  std::uint32_t stack = 4;
  std::uint32_t n_step = 1;
  std::uint64_t guard_frames = 0;
};

class Lane {
 public:
  enum class Phase : std::uint8_t {
    kUnbegun,  // begin() was never called
    kOpen,     // an episode is running
    kDone,     // the last step ended its episode and no new one has begun
  };

  // The numbers of a lane beside its arrays; what saving and restoring moves.
  struct Cursors {
    std::uint64_t written = 0;      // frames pushed
    std::uint64_t transitions = 0;  // transitions appended
    std::uint64_t closed = 0;
    std::uint64_t first = 0;
    std::uint64_t intact = 0;
    std::uint32_t depth = 0;  // of the current stack
    Phase phase = Phase::kUnbegun;
  };

  Lane(std::unique_ptr<FrameStore> frames, TransitionRing transitions, const LaneOptions& options) noexcept
      : frames_(std::move(frames)), transitions_(transitions), options_(options) {}

  const FrameStore& frames() const noexcept { return *frames_; }
  FrameStore& frames() noexcept { return *frames_; }
  const TransitionRing& transitions() const noexcept { return transitions_; }
  Phase phase() const noexcept { return cursors_.phase; }
  std::uint64_t appended() const noexcept { return cursors_.transitions; }
  std::uint64_t closed() const noexcept { return cursors_.closed; }
  std::uint64_t first() const noexcept { return cursors_.first; }
  std::uint64_t intact() const noexcept { return cursors_.intact; }
  std::uint64_t sampleable() const noexcept {
    return cursors_.closed > cursors_.first ? cursors_.closed - cursors_.first : 0;
  }
  bool is_sampleable(std::uint64_t sequence) const noexcept {
    return sequence >= cursors_.first && sequence < cursors_.closed;
  }

  // How `given` (stack * frame_bytes bytes, oldest frame first) would be kept after the lane's last stack.
  // O(stack * frame_bytes) bytes compared. Reads only.
  Intake classify(const std::uint8_t* given) const noexcept;

  // How `given` would be kept after `previous`, itself kept with depth `previous_depth`: for the first
  // observation behind a final one, which is not in the store yet.
  Intake classify_after(const std::uint8_t* previous, std::uint32_t previous_depth,
                        const std::uint8_t* given) const noexcept;

  // Whether a transition from the last stack to one kept as `intake` fits a window of stack + 1 frames.
  bool fits_window(const Intake& intake) const noexcept { return intake.continues; }

  // Starts an episode at `given`. An open episode ends here, truncated at its last observation.
  // `written` receives the slots (of this ring) and stack indices of the frames; its row fields are the
  // caller's.
  void begin(const std::uint8_t* given, const Intake& intake, std::vector<WrittenFrame>* written);

  // Appends the transition from the current stack to `next`. The lane must be open.
  void step(const Step& step, const std::uint8_t* next, const Intake& intake,
            std::vector<WrittenFrame>* written);

  Cursors cursors() const noexcept;
  void restore(const Cursors& cursors) noexcept;

  // "" if all that is said above holds, else the first thing that does not. O(ring).
  std::string invariant_violation() const;

 private:
  void store(const std::uint8_t* given, const Intake& intake, std::vector<WrittenFrame>* written);
  void close_windows(bool episode_ended) noexcept;
  void retire() noexcept;
  StackRef current() const noexcept { return {frames_->written() - 1, cursors_.depth}; }
  StackRef observation(std::uint64_t sequence) const noexcept {
    return transitions_[sequence].observation(frames_->written());
  }
  bool window_closed(std::uint64_t sequence) const noexcept;
  std::string cursor_violation() const;
  std::string transition_violation(std::uint64_t sequence) const;

  std::unique_ptr<FrameStore> frames_;
  TransitionRing transitions_;
  LaneOptions options_;
  Cursors cursors_;  // its `written` is unused: the ring counts

  friend struct LaneAccess;  // the tests' seeded corruptions
};

}  // namespace fastdqn
