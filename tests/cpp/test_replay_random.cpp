// Random operations on the whole buffer and on its oracle, compared after every one of them.
//
// FASTDQN_TEST_OPERATIONS says how many (30,000 unless set; a million take minutes), FASTDQN_TEST_SEED where to
// begin. A seed is one buffer of some options and kPerSeed operations; which it was is in the message of a failure.
// Beside every fourth buffer a second thread reads all the time.
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <thread>

#include "check.hpp"
#include "replay_fixture.hpp"
#include "replay_games.hpp"
#include "replay_oracle.hpp"

using namespace fastdqn;
using fixture::Batch;
using fixture::Rows;
using games::Ids;
using games::Random;
using oracle::Bytes;

namespace {

constexpr int kPerSeed = 400;
constexpr double kBeta = 0.6;

// A buffer beside its oracle.
class Pair {
 public:
  explicit Pair(std::uint64_t seed)
      : random_(seed),
        o_(games::random_options(random_)),
        bytes_(o_.frame_bytes()),
        oracle_(o_),
        games_(o_, random_),
        file_(folder() + "/fastdqn-random-" + std::to_string(::getpid())) {
    std::atomic_store(&replay_, std::make_shared<Replay>(o_));
  }
  ~Pair() {
    std::remove(file_.c_str());
    std::remove((file_ + "-again").c_str());
  }

  void operate() {
    const std::uint64_t kind = random_.below(100);
    if (kind < 60) {
      step();
    } else if (kind < 66) {
      begin();
    } else if (kind < 76) {
      plan();
    } else if (kind < 84) {
      gather_planned();
    } else if (kind < 92) {
      update_priorities();
    } else if (kind < 95) {
      save_and_load();
    } else {
      call_wrongly();
    }
    compare();
    if (++operations_ % 40 == 0) compare_everything();
  }

  // Reads from another thread until `running` is false. What is read changes under it; it has to be whole, or to
  // be refused.
  void read_beside(const std::atomic<bool>& running, std::uint64_t seed) {
    Random random(seed);
    Batch batch(4, o_.stack * bytes_, (o_.stack + 1) * bytes_);
    Bytes frames(bytes_ * 2);
    while (running) {
      const std::shared_ptr<Replay> replay = std::atomic_load(&replay_);
      const ReplayStats stats = replay->stats();
      Ids rows(4);
      for (std::int64_t& row : rows) row = static_cast<std::int64_t>(random.below(stats.transitions + 1));
      try {
        replay->gather(rows, batch.view());
      } catch (const std::exception&) {  // never sampleable, or overwritten
      }
      replay->read_frames(random.below(stats.slots - 1), 2, frames.data());
      (void)replay->size();
      std::this_thread::yield();
    }
  }

 private:
  static std::string folder() {  // /dev/shm: files that are synced a thousand times over should be in memory
    return std::filesystem::exists("/dev/shm") ? "/dev/shm" : std::filesystem::temp_directory_path().string();
  }

  // ---- operations ----

  void begin() {
    Rows rows;
    for (const std::int64_t id : games_.choose(true, true)) {
      rows.row(id, 0, games_.begin(id));
    }
    if (rows.env_id.empty()) return;
    BeginRows call = rows.begin();
    if (games_.is_everyone(rows.env_id) && random_.chance(50)) call.env_id = nullptr;
    const std::uint64_t whole = oracle_.whole_stacks();
    const std::vector<WrittenFrame> expected = oracle_.begin(rows);
    CHECK_EQ(replay().begin(call, &written_), oracle_.whole_stacks() - whole);
    compare_written(expected);
  }

  void step() {
    Rows rows;
    for (const std::int64_t id : games_.choose(false, o_.autoreset != Autoreset::kDisabled)) {
      const games::Answer given = games_.step(id);
      rows.row(id, static_cast<std::int32_t>(random_.below(1ULL << 32)), given.observation,
               static_cast<float>(random_.below(2001)) / 8 - 125, given.terminated, given.truncated);
      if (o_.autoreset == Autoreset::kSameStep) rows.final(given.final_observation);
    }
    if (rows.env_id.empty()) return;
    AddRows call = rows.add();
    if (games_.is_everyone(rows.env_id) && random_.chance(50)) call.env_id = nullptr;
    const std::uint64_t whole = oracle_.whole_stacks();
    const std::vector<WrittenFrame> expected = oracle_.add(rows);
    CHECK_EQ(replay().add(call, &written_), oracle_.whole_stacks() - whole);
    compare_written(expected);
  }

  void plan() {
    if (!oracle_.any_likely()) return;
    const std::size_t size = 1 + random_.below(6), frames = size * o_.stack;
    Batch batch(size, 0, 0);
    Ids obs(frames), next(frames);
    replay().plan(size, kBeta,
                  {obs.data(), next.data(), batch.action.data(), batch.reward.data(), batch.discount.data(),
                   batch.weight.data(), batch.row.data()});
    compare_columns(batch);
    Bytes stack(o_.stack * bytes_);
    planned_ = batch.row;
    planned_stacks_.clear();
    for (std::size_t i = 0; i < size; ++i) {
      const oracle::Row row = oracle_.row(batch.row[i]);
      planned_stacks_.push_back({*row.obs, *row.next_obs});
      for (const auto& [slots, expected] : {std::pair{&obs, row.obs}, std::pair{&next, row.next_obs}}) {
        for (std::uint32_t k = 0; k < o_.stack; ++k) {
          replay().read_frames(static_cast<std::uint64_t>((*slots)[i * o_.stack + k]), 1,
                               stack.data() + k * bytes_);
        }
        CHECK(stack == *expected);
      }
    }
    drawn_.insert(drawn_.end(), batch.row.begin(), batch.row.end());
    if (drawn_.size() > 60) drawn_.erase(drawn_.begin(), drawn_.end() - 50);
  }

  // A plan is good exactly until a frame of it is overwritten.
  void gather_planned() {
    if (planned_.empty()) return;
    bool lost = false;
    for (const std::int64_t row : planned_) lost = lost || oracle_.is_overwritten(row);
    Batch batch = empty_batch(planned_.size());
    if (lost) {
      CHECK_THROWS(std::runtime_error, "overwritten", replay().gather(planned_, batch.view()));
      return;
    }
    replay().gather(planned_, batch.view());
    for (std::size_t i = 0; i < planned_.size(); ++i) {
      compare_pixels(batch, i, planned_stacks_[i].first, planned_stacks_[i].second);
    }
  }

  void update_priorities() {
    if (drawn_.empty()) return;
    Ids rows;
    std::vector<double> priorities;
    const bool zeros = random_.chance(20);
    for (std::uint64_t i = random_.below(20); i > 0; --i) {
      rows.push_back(drawn_[random_.below(drawn_.size())]);
      priorities.push_back(zeros ? random_.pick({0.0, 0.25, 3.0}) : random_.pick({0.25, 1.0, 3.0}));
    }
    CHECK_EQ(replay().update_priorities(rows, priorities), oracle_.update_priorities(rows, priorities));
  }

  // Into the buffer itself, or into another one that has played, which takes its place: what it saves is the same.
  void save_and_load() {
    replay().save(file_);
    if (random_.chance(30)) return replay().load(file_);
    const auto other = std::make_shared<Replay>(o_);
    Rows rows;
    Bytes noise(o_.stack * bytes_);
    for (std::size_t id = 0; id < o_.num_envs; ++id) {
      for (std::uint8_t& byte : noise) byte = random_.byte();
      rows.row(static_cast<std::int64_t>(id), 0, noise);
    }
    other->begin(rows.begin(), nullptr);
    other->load(file_);
    other->save(file_ + "-again");
    CHECK(contents(file_) == contents(file_ + "-again"));
    std::atomic_store(&replay_, other);
  }
  static std::string contents(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  }

  // A call whose last row is at fault changes nothing: later comparisons would show it.
  void call_wrongly() {
    Rows rows;
    for (const std::int64_t id : games_.choose(false, false)) rows.row(id, 1, games_.peek(id), 1.0f);
    if (rows.env_id.empty()) return;
    switch (random_.below(4)) {
      case 0:
        rows.env_id.back() = static_cast<std::int64_t>(o_.num_envs);
        break;
      case 1:
        rows.env_id.back() = -1;
        break;
      case 2:
        rows.reward.back() = NAN;
        break;
      default:
        rows.action.back() = 1LL << 31;
    }
    CHECK_THROWS(std::invalid_argument, "", replay().add(rows.add(), nullptr));
  }

  // ---- comparing ----

  void compare_written(const std::vector<WrittenFrame>& expected) const {
    CHECK_EQ(written_.size(), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const WrittenFrame &a = written_[i], &b = expected[i];
      CHECK(a.slot == b.slot && a.source_row == b.source_row && a.source_index == b.source_index &&
            a.source_final == b.source_final);
    }
  }

  // A batch of what can be sampled, and the numbers.
  void compare() {
    const ReplayStats stats = replay().stats();
    CHECK_EQ(stats.frames_written, oracle_.frames_written());
    CHECK_EQ(stats.transitions, oracle_.transitions());
    CHECK_EQ(stats.whole_stacks, oracle_.whole_stacks());
    CHECK_EQ(stats.sampleable, oracle_.rows().size());
    Batch batch = empty_batch(3);
    if (!oracle_.any_likely()) {
      CHECK_THROWS(std::runtime_error, "nothing can be sampled", replay().sample(3, kBeta, batch.view()));
      return;
    }
    replay().sample(3, kBeta, batch.view());
    compare_columns(batch);
    for (std::size_t i = 0; i < batch.row.size(); ++i) {
      const oracle::Row row = oracle_.row(batch.row[i]);
      compare_pixels(batch, i, *row.obs, *row.next_obs);
    }
  }

  // Every row and every frame that is there.
  void compare_everything() {
    CHECK_EQ(replay().invariant_violation(), "");
    const Bytes expected = oracle_.frames();
    Bytes frames(expected.size());
    replay().read_frames(0, frames.size() / bytes_, frames.data());
    CHECK(frames == expected);
    const Ids names = oracle_.rows();
    Batch batch = empty_batch(names.size());
    replay().gather(names, batch.view());
    for (std::size_t i = 0; i < names.size(); ++i) {
      const oracle::Row row = oracle_.row(names[i]);
      compare_pixels(batch, i, *row.obs, *row.next_obs);
    }
  }

  // Sums in float64 rounded to float32: the order of summation may move the last bit, no more.
  void compare_columns(const Batch& batch) const {
    double least = INFINITY;
    for (const std::int64_t row : batch.row) {
      CHECK(oracle_.priority(row) > 0.0);
      least = std::min(least, oracle_.priority(row));
    }
    const auto near = [](float got, double wanted) {
      return std::abs(got - wanted) <= 1.2e-7 * std::abs(wanted) + 1e-12;
    };
    for (std::size_t i = 0; i < batch.row.size(); ++i) {
      const oracle::Row row = oracle_.row(batch.row[i]);
      CHECK_EQ(batch.action[i], row.action);
      CHECK(near(batch.reward[i], row.reward));
      CHECK(near(batch.discount[i], row.discount));
      CHECK(near(batch.weight[i], std::pow(least / oracle_.priority(batch.row[i]), kBeta)));
    }
  }

  void compare_pixels(const Batch& batch, std::size_t index, const Bytes& obs, const Bytes& next) const {
    const bool window = o_.layout == Layout::kWindow;
    const std::size_t at = index * (o_.stack + window) * bytes_;
    const Bytes& pixels = window ? batch.window : batch.obs;
    CHECK(std::equal(obs.begin(), obs.end(), pixels.begin() + static_cast<std::ptrdiff_t>(at)));
    const auto after = window ? pixels.begin() + static_cast<std::ptrdiff_t>(at + bytes_)
                              : batch.next_obs.begin() + static_cast<std::ptrdiff_t>(at);
    CHECK(std::equal(next.begin(), next.end(), after));
  }

  Batch empty_batch(std::size_t size) const {
    const bool window = o_.layout == Layout::kWindow;
    return Batch(size, window ? 0 : o_.stack * bytes_, window ? (o_.stack + 1) * bytes_ : 0);
  }
  Replay& replay() { return *replay_; }

  Random random_;
  const ReplayOptions o_;
  const std::size_t bytes_;
  std::shared_ptr<Replay> replay_;  // read_beside() takes it atomically
  oracle::Oracle oracle_;
  games::Games games_;
  const std::string file_;
  std::vector<WrittenFrame> written_;
  Ids planned_, drawn_;
  std::vector<std::pair<Bytes, Bytes>> planned_stacks_;
  int operations_ = 0;
};

// Runs one buffer's operations, with a reader beside some.
void run_seed(std::uint64_t seed, std::uint64_t operations) {
  Pair pair(seed);
  std::atomic<bool> running{seed % 4 == 0};
  std::thread reader;
  if (running) reader = std::thread([&] { pair.read_beside(running, seed); });
  std::string failure;
  for (std::uint64_t i = 0; i < operations && failure.empty(); ++i) {
    try {
      pair.operate();
    } catch (const std::exception& error) {
      failure = "seed " + std::to_string(seed) + ", operation " + std::to_string(i) + ": " + error.what();
    }
  }
  running = false;
  if (reader.joinable()) reader.join();
  if (!failure.empty()) throw check::Failure(failure);
}

std::uint64_t number_of(const char* variable, std::uint64_t otherwise) {
  const char* text = std::getenv(variable);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

}  // namespace

TEST(random_operations_match_the_oracle) {
  std::uint64_t seed = number_of("FASTDQN_TEST_SEED", 0);
  std::uint64_t left = number_of("FASTDQN_TEST_OPERATIONS", 30000);
  for (; left > 0; ++seed) {
    const std::uint64_t operations = std::min<std::uint64_t>(left, kPerSeed);
    run_seed(seed, operations);
    left -= operations;
  }
}
