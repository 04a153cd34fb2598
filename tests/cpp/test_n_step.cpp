#include <cmath>

#include "check.hpp"
#include "fastdqn/detail/n_step.hpp"

using fastdqn::NStep;
using fastdqn::Transition;
using fastdqn::TransitionRing;

namespace {

// Rewards 1, 2, 4, 8, ...; `flags` by sequence number.
std::vector<Transition> steps(const std::vector<std::uint8_t>& flags) {
  std::vector<Transition> all;
  float reward = 1.0f;
  for (const std::uint8_t flag : flags) {
    all.push_back({0, 0, reward, 1, 0, 0, flag});
    reward *= 2.0f;
  }
  return all;
}

}  // namespace

TEST(one_step_is_no_case_of_its_own) {
  auto all = steps({0, 0});
  const auto result = NStep(1, 0.5).fold(TransitionRing(all.data(), 2), 1);
  CHECK_EQ(result.reward, 2.0f);
  CHECK_EQ(result.discount, 0.5f);
  CHECK_EQ(result.length, 1u);
}

TEST(a_full_window_discounts_by_the_step) {
  auto all = steps({0, 0, 0, 0});
  const auto result = NStep(3, 0.5).fold(TransitionRing(all.data(), 4), 0);
  CHECK_EQ(result.reward, 1.0f + 0.5f * 2.0f + 0.25f * 4.0f);
  CHECK_EQ(result.discount, 0.125f);
  CHECK_EQ(result.length, 3u);
}

TEST(a_termination_shortens_the_window_and_zeroes_the_discount) {
  auto all = steps({0, Transition::kTerminated, 0});
  const auto result = NStep(3, 0.5).fold(TransitionRing(all.data(), 3), 0);
  CHECK_EQ(result.reward, 2.0f);
  CHECK_EQ(result.discount, 0.0f);
  CHECK_EQ(result.length, 2u);
}

TEST(a_truncation_keeps_its_own_discount) {
  auto all = steps({0, Transition::kTruncated, 0});
  const auto result = NStep(3, 0.5).fold(TransitionRing(all.data(), 3), 0);
  CHECK_EQ(result.reward, 2.0f);
  CHECK_EQ(result.discount, 0.25f);
}

TEST(termination_wins_over_truncation) {
  auto all = steps({Transition::kTerminated | Transition::kTruncated});
  CHECK_EQ(NStep(3, 0.5).fold(TransitionRing(all.data(), 1), 0).discount, 0.0f);
}

TEST(a_window_crosses_the_end_of_the_ring) {
  auto all = steps({0, 0, 0});
  CHECK_EQ(NStep(2, 1.0).fold(TransitionRing(all.data(), 3), 5).reward, 4.0f + 1.0f);
}

TEST(sums_are_kept_in_double) {
  std::vector<Transition> all(1000, {0, 0, 0.1f, 1, 0, 0, 0});
  const float reward = NStep(1000, 1.0).fold(TransitionRing(all.data(), 1000), 0).reward;
  CHECK_EQ(reward, static_cast<float>(1000 * static_cast<double>(0.1f)));
}

TEST(a_transition_finds_its_frames_behind_a_32_bit_wrap) {
  const std::uint64_t newest = (1ULL << 32) - 2;
  const Transition t{static_cast<std::uint32_t>(newest), 0, 0.0f, 4, 2, 3, 0};
  const std::uint64_t written = (1ULL << 32) + 5;
  CHECK_EQ(t.observation(written).newest, newest);
  CHECK_EQ(t.observation(written).oldest(), newest - 2);
  CHECK_EQ(t.next_observation(written).newest, newest + 4);
  CHECK_EQ(t.next_observation(written).depth, 3u);
}
