#include <map>

#include "check.hpp"
#include "fastdqn/sampler.hpp"

using namespace fastdqn;

namespace {

// Lanes of one-byte frames and stacks of one, with `counts[i]` transitions each.
struct Lanes {
  explicit Lanes(const std::vector<int>& counts) : memory(counts.size() * 64), records(counts.size() * 64) {
    for (std::size_t i = 0; i < counts.size(); ++i) {
      Lane lane(FrameRing(memory.data() + i * 64, 64, 1), TransitionRing(records.data() + i * 64, 64),
                {1, 1, 0});
      const std::uint8_t frame = 0;
      lane.begin(&frame, lane.classify(&frame), nullptr);
      for (int k = 0; k < counts[i]; ++k)
        lane.step({0, 0.0f, false, false}, &frame, lane.classify(&frame), nullptr);
      lanes.push_back(lane);
    }
  }
  std::vector<std::uint8_t> memory;
  std::vector<Transition> records;
  std::vector<Lane> lanes;
};

}  // namespace

// Seed 3, Pearson's chi-square over 33 rows, 32 degrees of freedom, 0.999 quantile 62.5: catches a choice of
// the lane before the row (each row of the short lane then comes ten times too often: a statistic in the
// thousands).
TEST(rows_are_uniform_over_unequal_lanes) {
  Lanes lanes({0, 30, 0, 3, 0});
  std::vector<Place> places(33000);
  UniformSampler sampler;
  sampler.draw(lanes.lanes, CounterRandom(3, 0), 0, places);
  std::map<std::pair<std::uint64_t, std::uint64_t>, double> counts;
  for (const Place& place : places) counts[{place.lane, place.sequence}] += 1.0;
  CHECK_EQ(counts.size(), 33u);
  double statistic = 0.0;
  for (const auto& entry : counts) statistic += (entry.second - 1000) * (entry.second - 1000) / 1000;
  CHECK(statistic < 62.5);
}

TEST(a_draw_depends_on_the_counter_alone) {
  Lanes lanes({20, 5});
  std::vector<Place> whole(10), half(5);
  UniformSampler sampler;
  sampler.draw(lanes.lanes, CounterRandom(9, 0), 100, whole);
  sampler.draw(lanes.lanes, CounterRandom(9, 0), 105, half);
  for (int i = 0; i < 5; ++i) {
    CHECK_EQ(half[i].lane, whole[5 + i].lane);
    CHECK_EQ(half[i].sequence, whole[5 + i].sequence);
  }
}
