// FrameStore: the last `ring` frames of one environment, named by numbers that never repeat. FrameRing keeps
// them as they are, DeltaRing as what changes from one to the next; whoever stands on this class does not know
// which.
//
// Frames are numbered 0, 1, 2, ... as they arrive; frame k belongs to slot k mod ring and lives until frame k +
// ring is pushed. A stack of observations is two small integers (StackRef), because its frames are neighbours.
//
// Units: sizes in bytes, positions in frames. Threads: none of its own, reading included; Replay's mutex guards
// it. Exceptions: none but reserve()'s; preconditions are unchecked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace fastdqn {

// A stack of frames: the frame numbers newest - depth ... newest, the oldest repeated to the left to fill the
// stack. depth = 0 is a fresh stack (one frame repeated), depth = stack - 1 a full one.
struct StackRef {
  std::uint64_t newest = 0;
  std::uint32_t depth = 0;

  std::uint64_t oldest() const noexcept { return newest - depth; }

  // The frame number at `index` of the stack; index 0 is the oldest, stack - 1 the newest.
  std::uint64_t at(std::uint32_t index, std::uint32_t stack) const noexcept {
    const std::uint32_t age = stack - 1 - index;
    return newest - (age < depth ? age : depth);
  }
};

// What a store takes, and of how many frames.
struct StorageCounts {
  std::uint64_t bytes = 0;       // what holds the pixels, with what finds them
  std::uint64_t key_frames = 0;  // kept without the frame before
  std::uint64_t raw_frames = 0;  // of those, the ones that are kept as they are
};

class FrameStore {
 public:
  FrameStore(std::uint64_t ring, std::size_t frame_bytes) noexcept : ring_(ring), frame_bytes_(frame_bytes) {}
  virtual ~FrameStore() = default;
  FrameStore(const FrameStore&) = delete;
  FrameStore& operator=(const FrameStore&) = delete;

  std::uint64_t ring() const noexcept { return ring_; }
  std::size_t frame_bytes() const noexcept { return frame_bytes_; }

  // Frames pushed so far, which is the number the next frame gets.
  std::uint64_t written() const noexcept { return written_; }

  std::uint64_t slot(std::uint64_t number) const noexcept { return number % ring_; }

  // The oldest frame number that survives once `guard` more frames are pushed; 0 while the ring is not full.
  std::uint64_t horizon(std::uint64_t guard = 0) const noexcept {
    return written_ + guard > ring_ ? written_ + guard - ring_ : 0;
  }

  // Frames that live now.
  std::uint64_t live() const noexcept { return written_ < ring_ ? written_ : ring_; }

  // Makes sure that `frames` more can be pushed without asking the system for anything that it could refuse.
  // Throws OutOfMemory or std::bad_alloc, with nothing changed.
  virtual void reserve(std::size_t frames) = 0;

  // Takes a frame, in place of the one `ring` numbers back. Returns its slot. At most as many as were reserved.
  std::uint64_t push(const std::uint8_t* pixels) noexcept {
    keep(pixels);
    return slot(written_++);
  }

  // The pixels of one of the last `stack` frames, valid until the next push.
  virtual const std::uint8_t* recent(std::uint64_t number) const noexcept = 0;

  // Copies `count` frames beginning with number `first` to `out`. All of them must be live.
  virtual void copy_run(std::uint64_t first, std::uint64_t count, std::uint8_t* out) const noexcept = 0;

  // Writes the `stack` frames of `ref` to `out` (stack * frame_bytes bytes), oldest first. All of them must
  // be live.
  virtual void copy_stack(const StackRef& ref, std::uint32_t stack, std::uint8_t* out) const noexcept = 0;

  // The same of a transition's two observations, of which `next` is the later one.
  virtual void copy_pair(const StackRef& obs, const StackRef& next, std::uint32_t stack,
                         std::uint8_t* obs_out, std::uint8_t* next_out) const noexcept = 0;

  // Asks the processor to fetch what copy_stack() of `ref` will read first, so that it arrives while another
  // stack is being copied. Changes nothing but speed.
  virtual void prefetch(const StackRef& ref) const noexcept = 0;

  virtual StorageCounts counts() const noexcept = 0;

  // "" if what the store keeps is consistent, else what is not. O(bytes stored).
  virtual std::string invariant_violation() const = 0;

  // Makes the store as if `written` frames had been pushed; their pixels must be in its memory already
  // (restoring).
  void set_written(std::uint64_t written) noexcept { written_ = written; }

 private:
  virtual void keep(const std::uint8_t* pixels) noexcept = 0;  // as number written()

  std::uint64_t ring_;
  std::size_t frame_bytes_;
  std::uint64_t written_ = 0;
};

}  // namespace fastdqn
