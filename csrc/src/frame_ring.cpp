#include "fastdqn/detail/frame_ring.hpp"

#include <algorithm>
#include <cstring>

namespace fastdqn {

void FrameRing::keep(const std::uint8_t* pixels) noexcept {
  std::memcpy(memory_ + slot(written()) * frame_bytes(), pixels, frame_bytes());
}

void FrameRing::copy_run(std::uint64_t first, std::uint64_t count, std::uint8_t* out) const noexcept {
  const std::size_t bytes = frame_bytes();
  const std::uint64_t start = slot(first);
  const std::uint64_t before_wrap = std::min(count, ring() - start);
  std::memcpy(out, memory_ + start * bytes, before_wrap * bytes);
  if (before_wrap < count) std::memcpy(out + before_wrap * bytes, memory_, (count - before_wrap) * bytes);
}

void FrameRing::copy_stack(const StackRef& ref, std::uint32_t stack, std::uint8_t* out) const noexcept {
  const std::uint64_t oldest = ref.oldest();
  for (std::uint32_t i = ref.depth + 1; i < stack; ++i, out += frame_bytes()) {
    std::memcpy(out, frame(oldest), frame_bytes());
  }
  copy_run(oldest, ref.depth + 1, out);
}

void FrameRing::copy_pair(const StackRef& obs, const StackRef& next, std::uint32_t stack,
                          std::uint8_t* obs_out, std::uint8_t* next_out) const noexcept {
  copy_stack(obs, stack, obs_out);
  copy_stack(next, stack, next_out);
}

void FrameRing::prefetch(const StackRef& ref) const noexcept {
#if defined(__GNUC__)
  // One line of each page: the address translations are what a random row waits for; the copy itself streams.
  constexpr std::size_t kPage = 4096;
  const std::uint8_t* begin = frame(ref.oldest());
  const std::uint8_t* end = std::min<const std::uint8_t*>(begin + (ref.depth + 1) * frame_bytes(),
                                                          memory_ + ring() * frame_bytes());
  for (const std::uint8_t* line = begin; line < end; line += kPage) __builtin_prefetch(line);
#else
  (void)ref;
#endif
}

}  // namespace fastdqn
