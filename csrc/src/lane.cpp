#include "fastdqn/detail/lane.hpp"

#include <algorithm>
#include <cstring>

namespace fastdqn {
namespace {

// How many of the `count` frames at `frames` are copies of the first, up to the first that is not.
std::uint32_t leading_copies(const std::uint8_t* frames, std::uint32_t count,
                             std::size_t frame_bytes) noexcept {
  std::uint32_t copies = 1;
  while (copies < count && std::memcmp(frames, frames + copies * frame_bytes, frame_bytes) == 0) ++copies;
  return copies;
}

// The rule of deduplication, over any way to find the frames of the previous stack: `older_match()` tells
// whether given[i] equals previous[i + 1] for every i below stack - 1.
template <class OlderMatch>
Intake decide(const std::uint8_t* given, std::uint32_t stack, std::size_t frame_bytes, bool has_previous,
              std::uint32_t previous_depth, const OlderMatch& older_match) noexcept {
  if (has_previous && older_match()) {
    return {true, std::min(previous_depth + 1, stack - 1)};
  }
  return {false, stack - leading_copies(given, stack, frame_bytes)};
}

}  // namespace

Intake Lane::classify(const std::uint8_t* given) const noexcept {
  const std::uint32_t stack = options_.stack;
  const std::size_t bytes = frames_->frame_bytes();
  const bool has_previous = phase() != Phase::kUnbegun;
  return decide(given, stack, bytes, has_previous, cursors_.depth, [&] {
    const StackRef last = current();
    for (std::uint32_t i = 0; i + 1 < stack; ++i) {
      if (std::memcmp(given + i * bytes, frames_->recent(last.at(i + 1, stack)), bytes) != 0) return false;
    }
    return true;
  });
}

Intake Lane::classify_after(const std::uint8_t* previous, std::uint32_t previous_depth,
                            const std::uint8_t* given) const noexcept {
  const std::size_t bytes = frames_->frame_bytes();
  return decide(given, options_.stack, bytes, true, previous_depth,
                [&] { return std::memcmp(given, previous + bytes, (options_.stack - 1) * bytes) == 0; });
}

void Lane::begin(const std::uint8_t* given, const Intake& intake, std::vector<WrittenFrame>* written) {
  if (cursors_.transitions > 0 && !transitions_[cursors_.transitions - 1].ends_episode()) {
    transitions_[cursors_.transitions - 1].flags = Transition::kTruncated;
    close_windows(true);
  }
  store(given, intake, written);
  cursors_.phase = Phase::kOpen;
  retire();
}

void Lane::step(const Step& step, const std::uint8_t* next, const Intake& intake,
                std::vector<WrittenFrame>* written) {
  const StackRef from = current();
  store(next, intake, written);
  Transition& record = transitions_[cursors_.transitions++];
  record.obs_newest_low = static_cast<std::uint32_t>(from.newest);
  record.action = step.action;
  record.reward = step.reward;
  record.next_distance = static_cast<std::uint8_t>(current().newest - from.newest);
  record.obs_depth = static_cast<std::uint8_t>(from.depth);
  record.next_depth = static_cast<std::uint8_t>(cursors_.depth);
  record.flags = static_cast<std::uint8_t>((step.terminated ? Transition::kTerminated : 0) |
                                           (step.truncated ? Transition::kTruncated : 0));
  close_windows(record.ends_episode());
  if (record.ends_episode()) cursors_.phase = Phase::kDone;
  retire();
}

void Lane::store(const std::uint8_t* given, const Intake& intake, std::vector<WrittenFrame>* written) {
  const std::uint32_t count = intake.frames();
  for (std::uint32_t i = options_.stack - count; i < options_.stack; ++i) {
    const std::uint64_t slot = frames_->push(given + i * frames_->frame_bytes());
    if (written != nullptr) written->push_back({static_cast<std::int64_t>(slot), 0, i, false});
  }
  cursors_.depth = intake.depth;
}

void Lane::close_windows(bool episode_ended) noexcept {
  const std::uint64_t count = cursors_.transitions;
  const std::uint64_t whole = count >= options_.n_step ? count - options_.n_step + 1 : 0;
  cursors_.closed = episode_ended ? count : std::max(cursors_.closed, whole);
}

// Moves the lower bounds past the transitions whose frames are gone, or inside the guard. Amortised O(1) a
// transition.
void Lane::retire() noexcept {
  const std::uint64_t count = cursors_.transitions;
  const std::uint64_t gone = frames_->horizon();
  while (cursors_.intact < count && observation(cursors_.intact).oldest() < gone) ++cursors_.intact;
  const std::uint64_t guarded = frames_->horizon(options_.guard_frames);
  cursors_.first = std::max(cursors_.first, cursors_.intact);
  while (cursors_.first < count && observation(cursors_.first).oldest() < guarded) ++cursors_.first;
}

Lane::Cursors Lane::cursors() const noexcept {
  Cursors copy = cursors_;
  copy.written = frames_->written();
  return copy;
}

void Lane::restore(const Cursors& cursors) noexcept {
  cursors_ = cursors;
  frames_->set_written(cursors.written);
}

std::string Lane::invariant_violation() const {
  std::string reason = cursor_violation();
  if (reason.empty()) reason = frames_->invariant_violation();
  for (std::uint64_t s = cursors_.intact; reason.empty() && s < cursors_.transitions; ++s) {
    reason = transition_violation(s);
  }
  return reason;
}

std::string Lane::cursor_violation() const {
  const Cursors& c = cursors_;
  if (c.phase > Phase::kDone) return "the phase is none of the three";
  if (c.depth >= options_.stack) return "the current stack is deeper than a stack";
  if (c.phase == Phase::kUnbegun && (frames_->written() > 0 || c.transitions > 0)) {
    return "frames or transitions before an episode began";
  }
  if (c.phase != Phase::kUnbegun && frames_->written() <= c.depth) return "the current stack lacks frames";
  if (c.intact > c.first) return "sampleable rows have lost pixels";
  if (c.first > c.transitions || c.closed > c.transitions) return "a cursor is ahead of the transitions";
  if (c.transitions - c.intact >= frames_->ring()) return "more intact transitions than frame slots";
  const std::uint64_t whole = c.transitions >= options_.n_step ? c.transitions - options_.n_step + 1 : 0;
  if (c.closed < whole) return "a full n-step window is not closed";
  const bool ended = c.transitions > c.intact && transitions_[c.transitions - 1].ends_episode();
  if (ended && c.closed != c.transitions) return "an ended episode has an open window";
  if (c.transitions > c.intact && c.phase == Phase::kDone && !ended)
    return "done, but the last step did not end";
  return "";
}

bool Lane::window_closed(std::uint64_t sequence) const noexcept {
  if (sequence + options_.n_step <= cursors_.transitions) return true;
  for (std::uint64_t s = sequence; s < cursors_.transitions; ++s) {
    if (transitions_[s].ends_episode()) return true;
  }
  return false;
}

std::string Lane::transition_violation(std::uint64_t sequence) const {
  const Transition& t = transitions_[sequence];
  const std::uint64_t written = frames_->written();
  const StackRef obs = t.observation(written), next = t.next_observation(written);
  const std::string name = "transition " + std::to_string(sequence) + ": ";
  const std::uint32_t deeper = std::min<std::uint32_t>(t.obs_depth + 1U, options_.stack - 1);
  if (t.flags > (Transition::kTerminated | Transition::kTruncated)) return name + "unknown flags";
  if (t.obs_depth >= options_.stack || t.next_depth >= options_.stack) return name + "deeper than a stack";
  // Each of the three: a number from before frame 0 is a huge one, and a step on from it may be a small one again.
  if (obs.newest >= written || obs.depth > obs.newest || next.newest >= written) {
    return name + "frames that were never written";
  }
  if (obs.oldest() < frames_->horizon()) return name + "overwritten frames in the intact range";
  if (sequence >= cursors_.first && obs.oldest() < frames_->horizon(options_.guard_frames)) {
    return name + "guarded frames in the sampleable range";
  }
  const bool continues = t.next_distance == 1 && t.next_depth == deeper;
  const bool afresh = t.next_distance == t.next_depth + 1U;
  if (!continues && !afresh) return name + "a next observation that no stored stack can have";
  if (sequence < cursors_.closed && !window_closed(sequence))
    return name + "an open n-step window counts as closed";
  if (sequence + 1 == cursors_.transitions) {
    const bool here = next.newest == current().newest && next.depth == cursors_.depth;
    return t.ends_episode() || here ? "" : name + "the open episode does not continue at the current stack";
  }
  const StackRef after = observation(sequence + 1);
  if (after.newest <= obs.newest) return name + "the following observation is not newer";
  if (!t.ends_episode() && (after.newest != next.newest || after.depth != next.depth)) {
    return name + "the episode does not continue at its next observation";
  }
  return "";
}

}  // namespace fastdqn
