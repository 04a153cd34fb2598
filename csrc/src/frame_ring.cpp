#include "fastdqn/detail/frame_ring.hpp"

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

void FrameRing::prefetch(const StackRef& ref) const noexcept {
#if defined(__GNUC__)
  // One line of each page: the address translations are what a random row waits for; the copy itself streams.
  constexpr std::size_t kPage = 4096;
  const std::uint8_t* begin = frame(ref.oldest());
  const std::uint8_t* end =
      std::min<const std::uint8_t*>(begin + (ref.depth + 1) * frame_bytes_, memory_ + ring_ * frame_bytes_);
  for (const std::uint8_t* line = begin; line < end; line += kPage) __builtin_prefetch(line);
#else
  (void)ref;
#endif
}

}  // namespace fastdqn
