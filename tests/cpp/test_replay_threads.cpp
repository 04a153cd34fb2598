// Adding, sampling, updating, planning, gathering, saving and asking from several threads: run it under
// ThreadSanitizer too.
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <thread>

#include "check.hpp"
#include "replay_fixture.hpp"

using namespace fastdqn;
using fixture::Batch;
using fixture::Rows;

namespace {

constexpr int kEnvs = 4;
constexpr int kFrame = 16;

ReplayOptions thread_options() {
  ReplayOptions o = fixture::options(200 * kEnvs, kEnvs);
  o.frame_shape = {kFrame};
  o.guard_frames = 8;
  o.alpha = 0.5;
  return o;
}

// A stack whose frames are `older` and `newer` in every byte.
std::vector<std::uint8_t> stack(int older, int newer) {
  std::vector<std::uint8_t> pixels(2 * kFrame, static_cast<std::uint8_t>(older));
  std::fill(pixels.begin() + kFrame, pixels.end(), static_cast<std::uint8_t>(newer));
  return pixels;
}

// Each sampled stack must be whole frames, the next one a step on: a torn copy would mix two.
void check_batch(const Batch& batch) {
  for (std::size_t i = 0; i < batch.row.size(); ++i) {
    const std::uint8_t* obs = batch.obs.data() + i * 2 * kFrame;
    const std::uint8_t* next = batch.next_obs.data() + i * 2 * kFrame;
    for (int k = 0; k < kFrame; ++k) CHECK(obs[kFrame + k] == next[k]);
    for (int k = 1; k < kFrame; ++k) CHECK(obs[k] == obs[0] && next[kFrame + k] == next[kFrame]);
  }
}

}  // namespace

TEST(any_function_may_run_beside_any_other) {
  Replay replay(thread_options());
  std::vector<int> last(kEnvs, 0);
  for (int env = 0; env < kEnvs; ++env) replay.begin(Rows().row(env, 0, stack(0, 0)).begin(), nullptr);
  for (int env = 0; env < kEnvs; ++env) replay.add(Rows().row(env, 0, stack(0, 1)).add(), nullptr);

  std::atomic<bool> running{true};
  std::atomic<int> failures{0};
  const auto guarded = [&](auto work) {
    return std::thread([&, work] {
      while (running) {
        try {
          work();
        } catch (const std::exception& error) {
          std::printf("%s\n", error.what());
          ++failures;
        }
      }
    });
  };
  std::vector<std::thread> threads;
  threads.push_back(guarded([&] {
    Batch batch(16, 2 * kFrame, 0);
    replay.sample(16, 1.0, batch.view());
    check_batch(batch);
    replay.update_priorities(batch.row, std::vector<double>(16, 1.0));
  }));
  threads.push_back(guarded([&] {
    Batch batch(8, 2 * kFrame, 0);
    std::vector<std::int64_t> obs(16), next(16);
    replay.plan(8, 1.0,
                {obs.data(), next.data(), batch.action.data(), batch.reward.data(), batch.discount.data(),
                 batch.weight.data(), batch.row.data()});
    try {
      replay.gather(batch.row, batch.view());
    } catch (const std::runtime_error&) {
      return;  // overwritten since: refused, never torn
    }
    check_batch(batch);
  }));
  threads.push_back(guarded([&] {
    CHECK(replay.size() > 0 && replay.stats().transitions > 0);
    CHECK_EQ(replay.invariant_violation(), "");
  }));
  std::string folder = (std::filesystem::temp_directory_path() / "fastdqn-XXXXXX").string();
  CHECK(::mkdtemp(folder.data()) != nullptr);
  const std::string file = folder + "/replay";
  threads.push_back(guarded([&] { replay.save(file); }));
  for (int env = 0; env < 2; ++env) {
    threads.push_back(std::thread([&, env] {
      for (int k = 1; k < 4000; ++k) {
        for (int e = env; e < kEnvs; e += 2) replay.add(Rows().row(e, k, stack(k, k + 1)).add(), nullptr);
      }
    }));
  }
  for (std::size_t i = 4; i < threads.size(); ++i) threads[i].join();
  running = false;
  for (int i = 0; i < 4; ++i) threads[i].join();
  CHECK_EQ(failures.load(), 0);
  Replay restored(thread_options());
  restored.load(file);
  CHECK_EQ(restored.invariant_violation(), "");
  std::filesystem::remove_all(folder);
  CHECK_EQ(replay.stats().transitions, 4000u * kEnvs);
  CHECK_EQ(replay.invariant_violation(), "");
}
