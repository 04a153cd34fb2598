// FrameRing: the last `ring` frames of one environment, each kept once, named by a number that never repeats.
//
// Frames are numbered 0, 1, 2, ... as they arrive; frame k lies in slot k mod ring and lives until frame k +
// ring is pushed. A stack of observations is two small integers (StackRef), because its frames are neighbours
// in the ring.
//
// Units: sizes in bytes, positions in frames. Ownership: the ring borrows its memory (ring * frame_bytes
// bytes), which must outlive it. Threads: none of its own; Replay's mutex guards it. Exceptions: none;
// preconditions are unchecked.
#pragma once

#include <cstddef>
#include <cstdint>

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

class FrameRing {
 public:
  FrameRing(std::uint8_t* memory, std::uint64_t ring, std::size_t frame_bytes) noexcept
      : memory_(memory), ring_(ring), frame_bytes_(frame_bytes) {}

  std::uint64_t ring() const noexcept { return ring_; }
  std::size_t frame_bytes() const noexcept { return frame_bytes_; }

  // Frames pushed so far, which is the number the next frame gets.
  std::uint64_t written() const noexcept { return written_; }

  std::uint64_t slot(std::uint64_t number) const noexcept { return number % ring_; }
  const std::uint8_t* frame(std::uint64_t number) const noexcept {
    return memory_ + slot(number) * frame_bytes_;
  }

  // The oldest frame number that survives once `guard` more frames are pushed; 0 while the ring is not full.
  std::uint64_t horizon(std::uint64_t guard = 0) const noexcept {
    return written_ + guard > ring_ ? written_ + guard - ring_ : 0;
  }

  // Copies frame_bytes bytes into the next slot, over the frame `ring` numbers back, and returns the slot.
  // O(frame_bytes).
  std::uint64_t push(const std::uint8_t* pixels) noexcept;

  // Copies `count` live frames beginning with number `first` to `out`, in at most two runs.
  void copy_run(std::uint64_t first, std::uint64_t count, std::uint8_t* out) const noexcept;

  // Writes the `stack` live frames of `ref` to `out` (stack * frame_bytes bytes), oldest first.
  void copy_stack(const StackRef& ref, std::uint32_t stack, std::uint8_t* out) const noexcept;

  // Asks the processor to fetch what copy_stack() of `ref` will read first, so that it arrives while another
  // stack is being copied. Changes nothing but speed.
  void prefetch(const StackRef& ref) const noexcept;

  // Restores: as if `written` frames had been pushed, whose pixels must be in the memory already.
  void set_written(std::uint64_t written) noexcept { written_ = written; }

 private:
  std::uint8_t* memory_;
  std::uint64_t ring_;
  std::size_t frame_bytes_;
  std::uint64_t written_ = 0;
};

}  // namespace fastdqn
