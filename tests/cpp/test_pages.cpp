#include <limits>

#include "check.hpp"
#include "fastdqn/detail/pages.hpp"

using fastdqn::Pages;

TEST(pages_are_zero_and_writeable) {
  const Pages pages(100000);
  CHECK_EQ(pages.size(), 100000u);
  for (std::size_t i = 0; i < pages.size(); ++i) CHECK_EQ(int{pages.data()[i]}, 0);
  pages.data()[99999] = 5;
}

TEST(moving_hands_the_memory_over) {
  Pages first(4096);
  std::uint8_t* memory = first.data();
  Pages second(std::move(first));
  CHECK(first.data() == nullptr);
  CHECK(second.data() == memory);
  Pages third;
  third = std::move(second);
  CHECK(third.data() == memory);
}

TEST(nothing_can_be_reserved) { CHECK(Pages(0).data() == nullptr); }

TEST(an_impossible_size_is_out_of_memory) {
  CHECK_THROWS(fastdqn::OutOfMemory, "bytes of memory", Pages(std::numeric_limits<std::size_t>::max() / 2));
}

TEST(some_memory_is_available) { CHECK(fastdqn::available_memory_bytes() > 1000000); }
