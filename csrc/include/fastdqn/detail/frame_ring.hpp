// FrameRing: a FrameStore whose frames lie one beside the other, frame k at k mod ring * frame_bytes.
//
// Ownership: the ring borrows its memory (ring * frame_bytes bytes), which must outlive it.
#pragma once

#include "fastdqn/detail/frame_store.hpp"

namespace fastdqn {

class FrameRing final : public FrameStore {
 public:
  FrameRing(std::uint8_t* memory, std::uint64_t ring, std::size_t frame_bytes) noexcept
      : FrameStore(ring, frame_bytes), memory_(memory) {}

  const std::uint8_t* frame(std::uint64_t number) const noexcept {
    return memory_ + slot(number) * frame_bytes();
  }

  void reserve(std::size_t) override {}  // all of it is there
  const std::uint8_t* recent(std::uint64_t number) const noexcept override { return frame(number); }

  // In at most two runs.
  void copy_run(std::uint64_t first, std::uint64_t count, std::uint8_t* out) const noexcept override;
  void copy_stack(const StackRef& ref, std::uint32_t stack, std::uint8_t* out) const noexcept override;
  void copy_pair(const StackRef& obs, const StackRef& next, std::uint32_t stack, std::uint8_t* obs_out,
                 std::uint8_t* next_out) const noexcept override;
  void prefetch(const StackRef& ref) const noexcept override;
  StorageCounts counts() const noexcept override { return {live() * frame_bytes(), live(), live()}; }
  std::string invariant_violation() const override { return ""; }

 private:
  void keep(const std::uint8_t* pixels) noexcept override;

  std::uint8_t* memory_;
};

}  // namespace fastdqn
