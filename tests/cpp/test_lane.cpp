#include "check.hpp"
#include "fastdqn/detail/frame_ring.hpp"
#include "fastdqn/detail/lane.hpp"

using namespace fastdqn;

namespace fastdqn {
// The seeded corruptions: what the invariants must report.
struct LaneAccess {
  static Lane::Cursors& cursors(Lane& lane) { return lane.cursors_; }
  static Transition& transition(Lane& lane, std::uint64_t sequence) { return lane.transitions_[sequence]; }
};
}  // namespace fastdqn

namespace {

// A lane of one-byte frames and stacks of three.
struct Fixture {
  explicit Fixture(std::uint64_t ring = 12, std::uint32_t n_step = 1, std::uint64_t guard = 0)
      : memory(ring),
        records(ring),
        lane(std::make_unique<FrameRing>(memory.data(), ring, 1), TransitionRing(records.data(), ring),
             {3, n_step, guard}) {}

  Intake begin(const std::vector<std::uint8_t>& stack) {
    const Intake intake = lane.classify(stack.data());
    lane.begin(stack.data(), intake, nullptr);
    return check(intake);
  }
  Intake step(const std::vector<std::uint8_t>& stack, bool terminated = false, bool truncated = false) {
    const Intake intake = lane.classify(stack.data());
    lane.step({0, 1.0f, terminated, truncated}, stack.data(), intake, nullptr);
    return check(intake);
  }
  // Steps an open episode whose last stack ended in frame `from`, with full stacks, up to frame `to`.
  void walk(int from, int to) {
    for (int k = from + 1; k <= to; ++k) {
      step({static_cast<std::uint8_t>(std::max(k - 2, 1)), static_cast<std::uint8_t>(std::max(k - 1, 1)),
            static_cast<std::uint8_t>(k)});
    }
  }
  Intake check(const Intake& intake) const {
    CHECK_EQ(lane.invariant_violation(), "");
    return intake;
  }

  std::vector<std::uint8_t> memory;
  std::vector<Transition> records;
  Lane lane;
};

constexpr bool kContinues = true, kAfresh = false;

void is(const Intake& intake, bool continues, std::uint32_t depth) {
  CHECK_EQ(intake.continues, continues);
  CHECK_EQ(intake.depth, depth);
  CHECK_EQ(intake.frames(), continues ? 1u : depth + 1);
}

// What the invariants say of a lane whose ring has wrapped (transition 11 ends an episode, 13 is the last),
// corrupted.
std::string violation(void (*corrupt)(Lane&)) {
  Fixture f;
  f.begin({1, 1, 1});
  f.walk(1, 12);
  f.step({11, 12, 13}, true);
  f.begin({20, 20, 20});
  f.step({20, 20, 21});
  f.step({20, 21, 22});
  corrupt(f.lane);
  return f.lane.invariant_violation();
}

}  // namespace

TEST(a_fresh_stack_costs_one_frame) {
  Fixture f;
  is(f.begin({5, 5, 5}), kAfresh, 0);
  CHECK_EQ(f.lane.frames().written(), 1u);
  is(f.step({5, 5, 6}), kContinues, 1);
  is(f.step({5, 6, 7}), kContinues, 2);
  is(f.step({6, 7, 8}), kContinues, 2);
  CHECK_EQ(f.lane.frames().written(), 4u);
}

TEST(a_continuing_stack_costs_one_frame_even_at_an_episodes_start) {
  Fixture f;
  f.begin({5, 5, 5});
  f.step({5, 5, 6}, true);
  is(f.begin({5, 6, 7}), kContinues, 2);  // a lost life keeps the old frames
  CHECK_EQ(f.lane.frames().written(), 3u);
}

TEST(a_stack_that_neither_shifts_nor_repeats_is_kept_whole) {
  Fixture f;
  is(f.begin({1, 2, 3}), kAfresh, 2);
  is(f.step({9, 8, 8}), kAfresh, 2);
  CHECK_EQ(f.lane.frames().written(), 6u);
}

TEST(a_padded_stack_costs_its_padding_once) {
  Fixture f;
  is(f.begin({0, 0, 5}), kAfresh, 1);
  CHECK_EQ(f.lane.frames().written(), 2u);
  is(f.step({0, 5, 6}), kContinues, 2);
  is(f.step({5, 6, 7}, true), kContinues, 2);
  is(f.begin({0, 0, 8}), kAfresh, 1);
  CHECK_EQ(f.lane.frames().written(), 6u);
}

TEST(no_frame_is_shared_in_a_whole_stack_alone) {
  CHECK((Intake{false, 2}.whole(3)));
  CHECK((Intake{false, 1}.whole(2)));
  CHECK((!Intake{false, 1}.whole(3)));  // padded
  CHECK((!Intake{true, 2}.whole(3)));   // continues
  CHECK((!Intake{false, 0}.whole(1)));  // there is nothing to share
}

TEST(every_older_frame_is_compared) {
  Fixture f;
  f.begin({5, 5, 5});
  is(f.step({4, 5, 6}), kAfresh, 2);
  is(f.step({4, 6, 7}), kAfresh, 2);
}

TEST(an_observation_behind_a_final_one_is_compared_with_it) {
  Fixture f;
  f.begin({5, 5, 5});
  const std::vector<std::uint8_t> last{5, 5, 6}, fresh{9, 9, 9}, shifted{5, 6, 7}, other{1, 2, 3};
  is(f.lane.classify_after(last.data(), 1, fresh.data()), kAfresh, 0);
  is(f.lane.classify_after(last.data(), 1, shifted.data()), kContinues, 2);
  is(f.lane.classify_after(last.data(), 1, other.data()), kAfresh, 2);
}

TEST(windows_close_after_n_steps_or_at_the_end) {
  Fixture f(20, 3);
  f.begin({1, 1, 1});
  f.walk(1, 3);
  CHECK_EQ(f.lane.sampleable(), 0u);
  f.walk(3, 5);
  CHECK_EQ(f.lane.closed(), 2u);
  f.step({4, 5, 6}, true);
  CHECK_EQ(f.lane.closed(), 5u);
  f.begin({9, 9, 9});
  f.step({9, 9, 8});
  CHECK_EQ(f.lane.closed(), 5u);
}

TEST(begin_closes_an_open_episode_as_truncated) {
  Fixture f(20, 3);
  f.begin({1, 1, 1});
  f.walk(1, 3);
  f.begin({7, 7, 7});
  CHECK_EQ(f.lane.closed(), 2u);
  CHECK_EQ(int{f.lane.transitions()[1].flags}, int{Transition::kTruncated});
  CHECK_EQ(int{f.lane.transitions()[0].flags}, 0);
}

TEST(a_row_leaves_when_its_oldest_frame_does) {
  Fixture f(8);
  f.begin({1, 1, 1});
  f.walk(1, 8);
  CHECK_EQ(f.lane.first(), 0u);
  f.walk(8, 9);  // frame 0 is gone: rows 0, 1 and 2 had it in their stacks
  CHECK_EQ(f.lane.first(), 3u);
  CHECK_EQ(f.lane.intact(), 3u);
  f.walk(9, 10);
  CHECK_EQ(f.lane.first(), 4u);
}

TEST(a_guard_retires_rows_early_but_leaves_their_pixels) {
  Fixture f(8, 1, 2);
  f.begin({1, 1, 1});
  f.walk(1, 9);
  CHECK_EQ(f.lane.intact(), 3u);
  CHECK_EQ(f.lane.first(), 5u);
}

TEST(whole_stacks_in_the_smallest_ring_leave_nothing_sampleable) {
  Fixture f(4);
  f.begin({1, 2, 3});
  for (std::uint8_t k = 10; k < 100; k = static_cast<std::uint8_t>(k + 10)) {
    f.step({k, static_cast<std::uint8_t>(k + 1), static_cast<std::uint8_t>(k + 3)});
    CHECK_EQ(f.lane.sampleable(), 0u);
  }
}

TEST(invariants_hold_in_a_sound_lane) {
  CHECK_EQ(violation([](Lane&) {}), "");
}

TEST(invariants_report_corruption) {
  CHECK(violation([](Lane& l) { LaneAccess::cursors(l).first = 0; }) != "");
  CHECK(violation([](Lane& l) { LaneAccess::cursors(l).intact -= 1; }) != "");
  CHECK(violation([](Lane& l) { LaneAccess::cursors(l).closed -= 1; }) != "");
  CHECK(violation([](Lane& l) { LaneAccess::cursors(l).transitions += 1; }) != "");
  CHECK(violation([](Lane& l) { LaneAccess::cursors(l).depth += 1; }) != "");
  CHECK(violation([](Lane& l) { LaneAccess::cursors(l).phase = Lane::Phase::kDone; }) != "");
  CHECK(violation([](Lane& l) { LaneAccess::cursors(l).phase = Lane::Phase::kUnbegun; }) != "");
  CHECK(violation([](Lane& l) { LaneAccess::transition(l, 11).flags = 0; }) != "");
  CHECK(violation([](Lane& l) { LaneAccess::transition(l, 10).flags = 9; }) != "");
  CHECK(violation([](Lane& l) { LaneAccess::transition(l, 10).obs_newest_low += 1; }) != "");
  CHECK(violation([](Lane& l) { LaneAccess::transition(l, 10).next_distance = 2; }) != "");
  CHECK(violation([](Lane& l) { LaneAccess::transition(l, 10).obs_depth = 1; }) != "");
  CHECK(violation([](Lane& l) { LaneAccess::transition(l, 10).next_depth = 1; }) != "");
}
