#include "check.hpp"
#include "fastdqn/span.hpp"

using fastdqn::Span;

TEST(a_span_sees_the_vector_that_it_was_made_from) {
  std::vector<int> values{1, 2, 3};
  const Span<int> span = values;
  span[1] = 7;
  CHECK_EQ(values[1], 7);
  CHECK_EQ(span.size(), 3u);
  int sum = 0;
  for (const int value : span) sum += value;
  CHECK_EQ(sum, 11);
}

TEST(a_mutable_span_becomes_a_const_one) {
  std::vector<int> values{4};
  const Span<int> span = values;
  const Span<const int> view = span;
  CHECK(view.data() == values.data());
  const std::vector<int>& fixed = values;
  CHECK_EQ(Span<const int>(fixed)[0], 4);
}

TEST(a_span_is_empty_by_default) { CHECK(Span<int>().empty()); }
