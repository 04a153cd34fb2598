#include "fastdqn/frame_ring.hpp"

#include <algorithm>
#include <cstring>

namespace fastdqn {

std::uint64_t FrameRing::push(const std::uint8_t* pixels) noexcept {
  const std::uint64_t target = slot(written_++);
  std::memcpy(memory_ + target * frame_bytes_, pixels, frame_bytes_);
  return target;
}

void FrameRing::copy_run(std::uint64_t first, std::uint64_t count, std::uint8_t* out) const noexcept {
  const std::uint64_t start = slot(first);
  const std::uint64_t before_wrap = std::min(count, ring_ - start);
  std::memcpy(out, memory_ + start * frame_bytes_, before_wrap * frame_bytes_);
  if (before_wrap < count) {
    std::memcpy(out + before_wrap * frame_bytes_, memory_, (count - before_wrap) * frame_bytes_);
  }
}

void FrameRing::copy_stack(const StackRef& ref, std::uint32_t stack, std::uint8_t* out) const noexcept {
  const std::uint64_t oldest = ref.oldest();
  for (std::uint32_t i = ref.depth + 1; i < stack; ++i, out += frame_bytes_) {
    std::memcpy(out, frame(oldest), frame_bytes_);
  }
  copy_run(oldest, ref.depth + 1, out);
}

}  // namespace fastdqn
