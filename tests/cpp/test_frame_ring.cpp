#include <vector>

#include "check.hpp"
#include "fastdqn/detail/frame_ring.hpp"

using fastdqn::FrameRing;
using fastdqn::StackRef;

namespace {

// Frames of two bytes: frame k holds k and 100 + k.
struct Fixture {
  std::vector<std::uint8_t> memory = std::vector<std::uint8_t>(5 * 2);
  FrameRing ring{memory.data(), 5, 2};

  void push(int count) {
    for (int i = 0; i < count; ++i) {
      const auto number = static_cast<std::uint8_t>(ring.written());
      const std::uint8_t pixels[2] = {number, static_cast<std::uint8_t>(100 + number)};
      ring.push(pixels);
    }
  }

  // The first bytes of the frames of a stack of 4.
  std::vector<int> stack(const StackRef& ref) const {
    std::vector<std::uint8_t> out(8);
    ring.copy_stack(ref, 4, out.data());
    std::vector<int> firsts;
    for (int i = 0; i < 4; ++i) {
      CHECK_EQ(out[i * 2 + 1], out[i * 2] + 100);
      firsts.push_back(out[i * 2]);
    }
    return firsts;
  }
};

}  // namespace

TEST(frames_lie_in_slots_by_number) {
  Fixture f;
  f.push(7);
  CHECK_EQ(f.ring.written(), 7u);
  CHECK_EQ(f.ring.slot(6), 1u);
  CHECK_EQ(int{f.ring.frame(6)[0]}, 6);
  CHECK_EQ(int{f.ring.frame(2)[0]}, 2);
}

TEST(the_horizon_is_the_oldest_live_frame) {
  Fixture f;
  f.push(5);
  CHECK_EQ(f.ring.horizon(), 0u);
  CHECK_EQ(f.ring.horizon(2), 2u);
  f.push(1);
  CHECK_EQ(f.ring.horizon(), 1u);
}

TEST(a_stack_repeats_its_oldest_frame) {
  Fixture f;
  f.push(4);
  CHECK((f.stack({3, 3}) == std::vector<int>{0, 1, 2, 3}));
  CHECK((f.stack({3, 1}) == std::vector<int>{2, 2, 2, 3}));
  CHECK((f.stack({3, 0}) == std::vector<int>{3, 3, 3, 3}));
}

TEST(a_stack_crosses_the_end_of_the_ring) {
  Fixture f;
  f.push(7);
  CHECK((f.stack({6, 3}) == std::vector<int>{3, 4, 5, 6}));
  CHECK((f.stack({5, 2}) == std::vector<int>{3, 3, 4, 5}));
}

TEST(a_stack_names_its_frames_as_it_copies_them) {
  const StackRef ref{9, 2};
  CHECK_EQ(ref.oldest(), 7u);
  CHECK_EQ(ref.at(0, 4), 7u);
  CHECK_EQ(ref.at(1, 4), 7u);
  CHECK_EQ(ref.at(2, 4), 8u);
  CHECK_EQ(ref.at(3, 4), 9u);
}
