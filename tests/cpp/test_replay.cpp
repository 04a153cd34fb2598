#include <cmath>

#include "check.hpp"
#include "fastdqn/replay.hpp"
#include "replay_fixture.hpp"

using namespace fastdqn;
using fixture::Batch;
using fixture::options;
using fixture::Rows;

namespace fastdqn {
struct ReplayAccess {
  static Pages& transitions(Replay& replay) { return replay.transitions_; }
};
}  // namespace fastdqn

namespace {

// Adds one row and checks the invariants.
void add(Replay& replay, const Rows& rows) {
  replay.add(rows.add(), nullptr);
  CHECK_EQ(replay.invariant_violation(), "");
}

void begin(Replay& replay, const Rows& rows) {
  replay.begin(rows.begin(), nullptr);
  CHECK_EQ(replay.invariant_violation(), "");
}

Batch sample(Replay& replay, std::size_t size = 64) {
  Batch batch(size, 2, 3);
  replay.sample(size, 1.0, batch.view());
  return batch;
}

// The index in the batch of a row.
std::size_t find(const Batch& batch, std::int64_t row) {
  for (std::size_t i = 0; i < batch.row.size(); ++i) {
    if (batch.row[i] == row) return i;
  }
  throw check::Failure("row " + std::to_string(row) + " is not in the batch");
}

std::vector<int> stack(const std::vector<std::uint8_t>& pixels, std::size_t index, std::size_t length = 2) {
  return std::vector<int>(pixels.begin() + index * length, pixels.begin() + (index + 1) * length);
}

using Ints = std::vector<int>;

}  // namespace

TEST(a_transition_comes_back_as_it_was_added) {
  Replay replay(options(10));
  begin(replay, Rows().row(0, 0, {1, 1}));
  add(replay, Rows().row(0, -7, {1, 2}, 0.25f));
  const Batch batch = sample(replay, 1);
  CHECK((stack(batch.obs, 0) == Ints{1, 1}));
  CHECK((stack(batch.next_obs, 0) == Ints{1, 2}));
  CHECK_EQ(batch.action[0], -7);
  CHECK_EQ(batch.reward[0], 0.25f);
  CHECK_EQ(batch.discount[0], 0.5f);
  CHECK_EQ(batch.weight[0], 1.0f);
  CHECK_EQ(batch.row[0], 0);
}

TEST(the_next_step_row_begins_an_episode_and_is_no_transition) {
  Replay replay(options(20));
  begin(replay, Rows().row(0, 0, {1, 1}));
  add(replay, Rows().row(0, 5, {1, 2}, 1.0f, true));
  add(replay, Rows().row(0, 1LL << 40, {9, 9}, 7.0f));  // the ignored action need not fit
  add(replay, Rows().row(0, 6, {9, 8}, 2.0f));
  CHECK_EQ(replay.size(), 2u);
  const Batch batch = sample(replay);
  const std::size_t last = find(batch, 0), first = find(batch, 1);
  CHECK((stack(batch.next_obs, last) == Ints{1, 2}));
  CHECK_EQ(batch.discount[last], 0.0f);
  CHECK((stack(batch.obs, first) == Ints{9, 9}));
  CHECK_EQ(batch.action[first], 6);
}

TEST(the_same_step_row_has_a_final_observation) {
  ReplayOptions o = options(20);
  o.autoreset = Autoreset::kSameStep;
  Replay replay(o);
  begin(replay, Rows().row(0, 0, {1, 1}));
  std::vector<WrittenFrame> written;
  replay.add(Rows().row(0, 5, {9, 9}, 1.0f, false, true).final({1, 2}).add(), &written);
  CHECK_EQ(written.size(), 2u);
  CHECK(written[0].source_final && !written[1].source_final);
  CHECK_EQ(written[1].slot, 2);
  add(replay, Rows().row(0, 6, {9, 8}));
  const Batch batch = sample(replay);
  const std::size_t last = find(batch, 0);
  CHECK((stack(batch.next_obs, last) == Ints{1, 2}));
  CHECK_EQ(batch.discount[last], 0.5f);
  CHECK((stack(batch.obs, find(batch, 1)) == Ints{9, 9}));
}

TEST(an_n_step_window_ends_with_its_episode) {
  ReplayOptions o = options(20);
  o.n_step = 3;
  Replay replay(o);
  begin(replay, Rows().row(0, 0, {1, 1}));
  add(replay, Rows().row(0, 0, {1, 2}, 1.0f));
  add(replay, Rows().row(0, 0, {2, 3}, 2.0f));
  CHECK_EQ(replay.size(), 0u);
  add(replay, Rows().row(0, 0, {3, 4}, 4.0f, false, true));
  CHECK_EQ(replay.size(), 3u);
  const Batch batch = sample(replay);
  const std::size_t whole = find(batch, 0), last = find(batch, 2);
  CHECK_EQ(batch.reward[whole], 3.0f);
  CHECK_EQ(batch.discount[whole], 0.125f);
  CHECK((stack(batch.next_obs, whole) == Ints{3, 4}));
  CHECK_EQ(batch.reward[last], 4.0f);
  CHECK_EQ(batch.discount[last], 0.5f);
}

TEST(a_window_holds_both_observations) {
  ReplayOptions o = options(5);
  o.layout = Layout::kWindow;
  Replay replay(o);
  begin(replay, Rows().row(0, 0, {1, 1}));
  for (std::uint8_t k = 1; k < 20; ++k) {
    add(replay, Rows().row(0, k, {k, static_cast<std::uint8_t>(k + 1)}));
    const Batch batch = sample(replay, 8);
    for (int i = 0; i < 8; ++i) {
      const int action = static_cast<int>(batch.action[i]);
      CHECK((stack(batch.window, i, 3) == Ints{std::max(action - 1, 1), action, action + 1}));
    }
  }
}

TEST(a_window_refuses_what_it_cannot_hold) {
  ReplayOptions o = options(10);
  o.layout = Layout::kWindow;
  Replay replay(o);
  begin(replay, Rows().row(0, 0, {3, 4}));
  CHECK_THROWS(std::invalid_argument, "observation: ", add(replay, Rows().row(0, 0, {1, 2})));
  CHECK_EQ(replay.stats().frames_written, 2u);
  add(replay, Rows().row(0, 0, {4, 5}, 0.0f, true));
  add(replay, Rows().row(0, 0, {1, 2}));  // an episode may begin with anything
}

TEST(a_plan_is_a_sample_without_pixels) {
  Replay first(options(12, 2)), second(options(12, 2));
  for (Replay* replay : {&first, &second}) {
    begin(*replay, Rows().row(0, 0, {1, 1}).row(1, 0, {2, 2}));
    add(*replay, Rows().row(1, 3, {2, 4}).row(0, 4, {1, 5}));
    add(*replay, Rows().row(1, 5, {4, 6}));
  }
  Batch sampled = sample(first, 10), gathered(10, 2, 3);
  std::vector<std::int64_t> obs(20), next(20), row(10), action(10);
  second.plan(10, 1.0,
              {obs.data(), next.data(), action.data(), gathered.reward.data(), gathered.discount.data(),
               gathered.weight.data(), row.data()});
  second.gather(row, gathered.view());
  CHECK(row == sampled.row && action == sampled.action);
  CHECK(gathered.obs == sampled.obs && gathered.next_obs == sampled.next_obs);
  for (const std::int64_t slot : next) CHECK(slot >= 0 && slot < 12);
}

TEST(frames_are_read_by_slot) {
  Replay replay(options(12, 2));
  begin(replay, Rows().row(0, 0, {1, 2}).row(1, 0, {7, 8}));
  std::vector<std::uint8_t> frames(12);
  replay.read_frames(0, 12, frames.data());
  CHECK((frames == std::vector<std::uint8_t>{1, 2, 0, 0, 0, 0, 7, 8, 0, 0, 0, 0}));
  replay.read_frames(7, 1, frames.data());
  CHECK_EQ(int{frames[0]}, 8);
  CHECK_THROWS(std::invalid_argument, "first_slot: ", replay.read_frames(7, 6, frames.data()));
}

TEST(gathering_an_overwritten_frame_is_an_error) {
  Replay replay(options(6));
  begin(replay, Rows().row(0, 0, {1, 1}));
  add(replay, Rows().row(0, 0, {1, 2}));
  Batch batch(1, 2, 3);
  const std::vector<std::int64_t> row{0};
  for (std::uint8_t k = 2; k < 6; ++k) add(replay, Rows().row(0, 0, {k, static_cast<std::uint8_t>(k + 1)}));
  replay.gather(row, batch.view());
  CHECK((stack(batch.obs, 0) == Ints{1, 1}));
  add(replay, Rows().row(0, 0, {6, 7}));
  CHECK_THROWS(std::runtime_error, "overwritten", replay.gather(row, batch.view()));
}

TEST(priorities_of_lost_rows_are_dropped_and_counted) {
  Replay replay(options(6));
  begin(replay, Rows().row(0, 0, {1, 1}));
  for (std::uint8_t k = 1; k < 10; ++k) add(replay, Rows().row(0, 0, {k, static_cast<std::uint8_t>(k + 1)}));
  const std::vector<std::int64_t> rows{0, 1, 8};
  CHECK_EQ(replay.update_priorities(rows, std::vector<double>{1.0, 0.0, 2.0}), 2u);
  CHECK_THROWS(std::invalid_argument,
               "row: ", replay.update_priorities(std::vector<std::int64_t>{9}, std::vector<double>{1.0}));
  CHECK_THROWS(std::invalid_argument, "priority: ",
               replay.update_priorities(std::vector<std::int64_t>{8}, std::vector<double>{-1.0}));
}

TEST(prioritised_sampling_follows_updates) {
  ReplayOptions o = options(12);
  o.alpha = 1.0;
  Replay replay(o);
  begin(replay, Rows().row(0, 0, {1, 1}));
  for (std::uint8_t k = 1; k < 30; ++k) {
    add(replay, Rows().row(0, k, {k, static_cast<std::uint8_t>(k + 1)}));
    const Batch batch = sample(replay, 16);
    std::vector<double> priorities;
    for (const std::int64_t row : batch.row) priorities.push_back(static_cast<double>(row % 3));
    CHECK_EQ(replay.update_priorities(batch.row, priorities), 0u);
    CHECK_EQ(replay.invariant_violation(), "");
  }
  std::vector<std::int64_t> rows;
  for (std::int64_t row = 0; row < 29; ++row) rows.push_back(row);
  CHECK_EQ(replay.update_priorities(rows, std::vector<double>(29, 0.0)), 29 - replay.size());
  CHECK_THROWS(std::runtime_error, "zero", sample(replay, 1));
  CHECK_EQ(replay.update_priorities({&rows[25], 1}, std::vector<double>{0.5}), 0u);
  for (const std::int64_t row : sample(replay, 50).row) CHECK_EQ(row, 25);
}

TEST(a_bad_priority_changes_nothing) {
  ReplayOptions o = options(12);
  o.alpha = 0.5;
  Replay replay(o);
  begin(replay, Rows().row(0, 0, {1, 1}));
  for (std::uint8_t k = 1; k < 5; ++k) add(replay, Rows().row(0, k, {k, static_cast<std::uint8_t>(k + 1)}));
  const std::vector<std::int64_t> rows{1, 2};
  for (const double bad : {-1.0, static_cast<double>(NAN), static_cast<double>(INFINITY), 1e101}) {
    CHECK_THROWS(std::invalid_argument, "priority: entry 1",
                 replay.update_priorities(rows, std::vector<double>{0.0, bad}));
  }
  for (const float weight : sample(replay).weight) CHECK_EQ(weight, 1.0f);  // row 1 did not become zero
  CHECK(find(sample(replay), 1) < 64);
}

TEST(a_wrong_call_changes_nothing) {
  Replay replay(options(12, 2));
  const Rows unbegun = Rows().row(0, 0, {1, 1});
  CHECK_THROWS(std::invalid_argument, "env_id: ", replay.add(unbegun.add(), nullptr));
  begin(replay, Rows().row(0, 0, {1, 1}).row(1, 0, {2, 2}));
  add(replay, Rows().row(1, 0, {2, 3}, 0.0f, true));
  const Rows bad[] = {
      Rows().row(0, 0, {1, 2}).row(2, 0, {2, 2}),              // no such environment
      Rows().row(0, 0, {1, 2}).row(-1, 0, {2, 2}),             // nor such
      Rows().row(0, 0, {1, 2}).row(0, 0, {1, 2}),              // repeated
      Rows().row(0, 0, {1, 2}).row(1, 0, {4, 4}, 0.0f, true),  // a done autoreset row
      Rows().row(0, 1LL << 31, {1, 2}),                        // an action of 33 bits
      Rows().row(0, 0, {1, 2}, 0.0f, true).final({1, 2}),      // a final observation in the wrong mode
      Rows().row(0, 0, {1, 2}, NAN),                           // no rewards
      Rows().row(0, 0, {1, 2}, -INFINITY),
  };
  const char* names[] = {
      "env_id: ", "env_id: ", "env_id: ", "terminated: ", "action: ", "final_observation: ",
      "reward: ", "reward: "};
  for (int i = 0; i < 8; ++i) {
    CHECK_THROWS(std::invalid_argument, names[i], replay.add(bad[i].add(), nullptr));
    CHECK_EQ(replay.stats().frames_written, 3u);
    CHECK_EQ(replay.invariant_violation(), "");
  }
}

TEST(any_byte_of_a_flag_but_zero_is_true) {
  for (const int byte : {1, 2, 128, 255}) {
    Replay replay(options(12, 2));
    begin(replay, Rows().row(0, 0, {1, 1}).row(1, 0, {2, 2}));
    Rows rows = Rows().row(0, 0, {1, 2}).row(1, 0, {2, 3});
    rows.terminated[0] = rows.truncated[1] = static_cast<std::uint8_t>(byte);
    add(replay, rows);
    CHECK_EQ(replay.invariant_violation(), "");
    const Batch batch = sample(replay);
    CHECK_EQ(batch.discount[find(batch, 0)], 0.0f);
    CHECK_EQ(batch.discount[find(batch, 1)], 0.5f);
  }
}

TEST(arrays_of_a_batch_that_share_memory_are_refused) {
  Replay replay(options(12));
  begin(replay, Rows().row(0, 0, {1, 1}));
  add(replay, Rows().row(0, 0, {1, 2}, 3.0f));
  Batch batch(4, 2, 3);
  const std::vector<std::int64_t> rows(4, 0);
  BatchView view = batch.view();
  view.next_obs = view.obs + 7;  // of eight bytes
  CHECK_THROWS(std::invalid_argument, "next_obs: shares memory with obs", replay.sample(4, 1.0, view));
  CHECK_THROWS(std::invalid_argument, "next_obs: shares memory with obs", replay.gather(rows, view));
  view = batch.view();
  view.weight = view.reward;
  CHECK_THROWS(std::invalid_argument, "weight: shares memory with reward", replay.sample(4, 1.0, view));
  std::vector<std::int64_t> frames(16);
  PlanView plan{frames.data(), frames.data() + 7,   view.action, view.reward,
                view.discount, batch.weight.data(), view.row};
  CHECK_THROWS(std::invalid_argument, "next_frames: shares", replay.plan(4, 1.0, plan));
  plan.next_frames = frames.data() + 8;
  replay.plan(4, 1.0, plan);
  view = BatchView();  // a gather needs no columns
  view.obs = batch.obs.data();
  view.next_obs = batch.next_obs.data();
  replay.gather(rows, view);
  CHECK_EQ(batch.next_obs[1], 2);
}

TEST(disabled_autoreset_wants_begin) {
  ReplayOptions o = options(12);
  o.autoreset = Autoreset::kDisabled;
  Replay replay(o);
  begin(replay, Rows().row(0, 0, {1, 1}));
  add(replay, Rows().row(0, 0, {1, 2}, 0.0f, true));
  CHECK_THROWS(std::invalid_argument, "begin()", replay.add(Rows().row(0, 0, {2, 3}).add(), nullptr));
  begin(replay, Rows().row(0, 0, {2, 3}));
  add(replay, Rows().row(0, 0, {3, 4}));
  CHECK_EQ(replay.size(), 2u);
}

TEST(an_empty_buffer_cannot_be_sampled) {
  Replay replay(options(10));
  Batch batch(1, 2, 3);
  CHECK_THROWS(std::runtime_error, "nothing", replay.sample(1, 1.0, batch.view()));
  begin(replay, Rows().row(0, 0, {1, 1}));
  CHECK_THROWS(std::runtime_error, "nothing", replay.sample(1, 1.0, batch.view()));
  CHECK_THROWS(std::invalid_argument, "beta: ", replay.sample(1, 1.5, batch.view()));
}

TEST(options_are_checked) {
  CHECK_THROWS(std::invalid_argument, "capacity: ", Replay(options(2)));
  CHECK_THROWS(std::invalid_argument, "at least 6", Replay(options(5, 2)));
  CHECK_THROWS(OutOfMemory, "capacity: ", [] {
    ReplayOptions o = options(1ULL << 31);
    o.num_envs = 4;
    o.frame_shape.assign(2, 1 << 15);
    Replay replay(o);
  }());
  ReplayOptions o = options(100);
  o.n_step = 2;
  o.layout = Layout::kWindow;
  CHECK_THROWS(std::invalid_argument, "layout: ", Replay{o});
}

TEST(stats_tell_what_there_is) {
  Replay replay(options(11, 2));
  begin(replay, Rows().row(0, 0, {1, 1}).row(1, 0, {2, 3}));
  CHECK_EQ(replay.stats().whole_stacks, 0u);  // a first stack of two may be padded
  add(replay, Rows().row(0, 0, {1, 2}).row(1, 0, {8, 9}));
  const ReplayStats stats = replay.stats();
  CHECK_EQ(stats.slots, 10u);
  CHECK_EQ(stats.frames, 6u);
  CHECK_EQ(stats.episode_frames, 3u);
  CHECK_EQ(stats.episodes, 2u);
  CHECK_EQ(stats.whole_stacks, 1u);
  CHECK_EQ(stats.transitions, 2u);
  CHECK_EQ(stats.sampleable, 2u);
  CHECK(stats.allocated_bytes >= 10 * 17);
}

TEST(invariants_report_a_corrupted_transition) {
  Replay replay(options(12, 2));
  begin(replay, Rows().row(0, 0, {1, 1}).row(1, 0, {2, 2}));
  add(replay, Rows().row(0, 0, {1, 2}).row(1, 0, {2, 3}));
  ReplayAccess::transitions(replay).data()[6 * 16 + 15] =
      77;  // the flags of environment 1's first transition
  CHECK(replay.invariant_violation().find("environment 1: ") == 0);
}
