// Hostile files: valid ones of many buffers are changed in every way of snapshot_mutations.hpp, given checksums that
// fit, and loaded into a buffer that holds something else.
//
//   fuzz_snapshot [--files N] [--seconds S] [--seed K] [--first N]
//
// Each file is either refused, with an exception of the documented type and the buffer as it was, or taken: then the
// buffer's invariants hold, it saves what it has loaded, and it can be sampled, gathered from and added to. N files
// are tried (40,000 unless told), or as many as S seconds allow. File number n of a seed is always the same one:
// `--first n --files 1` tries it alone. The exit status is 1 at the first file that is neither, which stays where
// the message says; so does the last one should the program be ended by a sanitizer.
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "fastdqn/replay.hpp"
#include "replay_fixture.hpp"
#include "replay_games.hpp"
#include "snapshot_mutations.hpp"
#include "snapshot_text.hpp"

using namespace fastdqn;
using fixture::Batch;
using fixture::Rows;
using games::Games;
using games::Ids;
using games::Random;
using snapshot_text::Bytes;
using snapshot_text::File;

namespace {

constexpr std::uint64_t kCases = 48;
// What a run of this many files must have seen; fewer may miss a rare one.
constexpr std::uint64_t kManyFiles = 40000;
const char* const kRefusals[] = {
    // of the file
    "not a replay file", "truncated", "the checksum of its header does not fit", "its version contradicts",
    "unknown version", "newer", "saved with", "its header contradicts its contents", "bytes instead of",
    "its checksum does not fit its contents",
    // of groups and records
    "too short for the groups", "groups before there was a frame", "frames without a group",
    "the oldest live frame is in no group", "a group of frames that are all gone",
    "no group has so many frames", "no group has so many bytes", "is none", "bytes behind its last record",
    // of lanes and transitions
    "a count beyond reason", "an unknown phase", "unknown flags", "deeper than a stack",
    "frames that were never written", "overwritten frames", "guarded frames",
    "a next observation that no stored stack can have", "an open n-step window counts as closed",
    "is not newer", "does not continue", "a cursor is ahead", "more intact transitions",
    "the current stack lacks",
    // of priorities
    "is no weight", "has a priority but cannot be sampled"};

struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

void demand(bool condition, const std::string& what) {
  if (!condition) throw Fault(what);
}

std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

void put(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary).write(text.data(), static_cast<std::streamsize>(text.size()));
}

// ---- buffers ----

// Small ones, so that thousands a second are tried; rings of up to 45 have groups of up to five frames.
ReplayOptions options_of(std::uint64_t number, Random& random) {
  ReplayOptions o = games::random_options(random);
  o.storage = number % 3 == 0 ? Storage::kRaw : Storage::kDelta;
  o.num_envs = 1 + random.below(3);
  o.frame_shape = random.pick<std::vector<std::uint64_t>>({{1}, {7}, {33}, {5, 8}, {3, 3}, {10, 10}});
  o.capacity =
      o.num_envs * (o.stack + o.n_step + o.guard_frames + random.pick<std::uint64_t>({0, 3, 12, 32}));
  return o;
}

void begin_all(Replay& replay, Games& games) {
  Rows rows;
  for (std::size_t id = 0; id < replay.options().num_envs; ++id) {
    rows.row(static_cast<std::int64_t>(id), 0, games.begin(static_cast<std::int64_t>(id)));
  }
  replay.begin(rows.begin(), nullptr);
}

void play(Replay& replay, Games& games, Random& random, std::uint64_t steps) {
  const bool waits = replay.options().autoreset == Autoreset::kDisabled;
  for (; steps > 0; --steps) {
    Rows rows;
    for (const std::int64_t id : games.choose(false, !waits)) {
      const games::Answer answer = games.step(id);
      rows.row(id, static_cast<std::int64_t>(random.below(9)), answer.observation, 1.5f, answer.terminated,
               answer.truncated);
      if (replay.options().autoreset == Autoreset::kSameStep) rows.final(answer.final_observation);
    }
    if (rows.env_id.empty()) {
      begin_all(replay, games);
    } else {
      replay.add(rows.add(), nullptr);
    }
  }
}

// A buffer that has played for `steps`; 0 is an empty one.
std::unique_ptr<Replay> played(const ReplayOptions& options, std::uint64_t seed, std::uint64_t steps) {
  auto replay = std::make_unique<Replay>(options);
  Random random(seed);
  Games games(options, random);
  if (steps == 0) return replay;
  begin_all(*replay, games);
  play(*replay, games, random, steps - 1);
  return replay;
}

Batch batch_of(const ReplayOptions& o, std::size_t size) {
  const std::size_t frame = o.frame_bytes();
  const bool window = o.layout == Layout::kWindow;
  return Batch(size, window ? 0 : o.stack * frame, window ? (o.stack + 1) * frame : 0);
}

Bytes all_frames(const Replay& replay) {
  const std::uint64_t slots = replay.ring() * replay.options().num_envs;
  Bytes frames(slots * replay.options().frame_bytes());
  replay.read_frames(0, slots, frames.data());
  return frames;
}

// What is seen of a buffer from outside without drawing.
struct State {
  State(const Replay& replay, const Ids& rows) : stats(replay.stats()), pixels(all_frames(replay)) {
    Batch batch = batch_of(replay.options(), rows.size());
    replay.gather(rows, batch.view());
    for (const Bytes* part : {&batch.obs, &batch.next_obs, &batch.window}) {
      pixels.insert(pixels.end(), part->begin(), part->end());
    }
  }
  bool operator==(const State& other) const {
    return pixels == other.pixels && std::memcmp(&stats, &other.stats, sizeof stats) == 0;
  }

  ReplayStats stats;
  Bytes pixels;
};

// Rows that are drawn, gathered again and given priorities. Returns whether there were any.
bool sample(Replay& replay) {
  Batch batch = batch_of(replay.options(), 8);
  try {
    replay.sample(8, 0.5, batch.view());
  } catch (const std::runtime_error& error) {
    demand(std::string(error.what()).find("nothing can be sampled") == 0, error.what());
    return false;
  }
  Batch again = batch_of(replay.options(), 8);
  replay.gather(batch.row, again.view());
  demand(again.obs == batch.obs && again.next_obs == batch.next_obs && again.window == batch.window,
         "gathered other pixels than were sampled");
  demand(replay.update_priorities(batch.row, std::vector<double>(8, 2.0)) == 0, "a sampled row was dropped");
  return true;
}

// ---- one kind of buffer and its files ----

struct Case {
  Case(std::uint64_t number, const std::string& path)
      : random(1000 + number), options(options_of(number, random)) {
    const std::uint64_t ring = options.capacity / options.num_envs;
    for (const std::uint64_t steps :
         {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{3}, ring / 2, 3 * ring}) {
      const auto replay = played(options, number + steps, steps);
      sample(*replay);
      add_file(*replay, path);
    }
    held = played(options, 77, options.capacity);
    if (held->size() > 0) {
      Batch batch = batch_of(options, 8);
      held->sample(8, 0.5, batch.view());
      rows = batch.row;
    }
    held->save(path);
    text = contents(path);
    state = std::make_unique<State>(*held, rows);
  }

  // A file, and of raw frames those of the older versions.
  void add_file(Replay& replay, const std::string& path) {
    replay.save(path);
    files.push_back(snapshot_text::parse(contents(path)));
    File whole = files.back();
    demand(snapshot_text::compose(whole, replay.ring(), options.frame_bytes()) == contents(path),
           "the file that was put together again is another one");
    if (options.storage != Storage::kRaw) return;
    for (const char* version : {"2", "1"}) {
      File older = files.back();
      for (auto& entry : older.metadata) {
        if (entry.first == "version") entry.second = version;
      }
      if (older.metadata.back().first == "storage") older.metadata.pop_back();
      older.sealed = *version != '1';
      files.push_back(older);
    }
  }

  // Makes the buffer that files are loaded into what it was before any.
  void restore(const std::string& path) {
    put(path, text);
    held->load(path);
  }

  Random random;
  ReplayOptions options;
  std::vector<File> files;
  std::unique_ptr<Replay> held;
  Ids rows;
  std::string text;  // that `held` saves
  std::unique_ptr<State> state;
};

// ---- trying files ----

class Fuzzer {
 public:
  explicit Fuzzer(std::uint64_t seed) : seed_(seed) {
    const std::string folder =
        std::filesystem::exists("/dev/shm") ? "/dev/shm" : std::filesystem::temp_directory_path().string();
    path_ = folder + "/fastdqn-fuzz-" + std::to_string(::getpid());
    for (std::uint64_t number = 0; number < kCases; ++number) cases_.emplace_back(number, again());
  }
  ~Fuzzer() {
    if (!failed_) std::remove(path_.c_str());
    std::remove(again().c_str());
  }

  // Returns whether file `number` was refused or good.
  bool try_file(std::uint64_t number) {
    Random random(seed_ * 1000003 + number);
    Case& one = cases_[random.below(cases_.size())];
    std::string done;
    const std::string text = change(one, random, done);
    put(path_, text);
    try {
      load(one, text, random);
      if (random.chance(12)) make(random);
    } catch (const std::exception& error) {
      std::printf("FAILED file %llu of seed %llu (%s), which is %s: %s\n",
                  static_cast<unsigned long long>(number), static_cast<unsigned long long>(seed_),
                  done.c_str(), path_.c_str(), error.what());
      failed_ = true;
    }
    ++tried_;
    return !failed_;
  }

  void report() const {
    std::printf("%llu files, %llu taken, %llu refused; %llu buffers made from files\n",
                static_cast<unsigned long long>(tried_), static_cast<unsigned long long>(taken_),
                static_cast<unsigned long long>(refused_), static_cast<unsigned long long>(made_));
    for (const auto& reason : reasons_) {
      std::printf("%9llu  %s\n", static_cast<unsigned long long>(reason.second), reason.first.c_str());
    }
  }

  // Whether what a long run must have met was met: each way of refusing, and files that were taken.
  bool is_complete() const {
    bool complete = taken_ * 50 > tried_ && made_ > 0;
    if (!complete) std::printf("FAILED: hardly a file was taken\n");
    for (const char* refusal : kRefusals) {
      bool met = false;
      for (const auto& reason : reasons_) met = met || reason.first.find(refusal) != std::string::npos;
      if (!met) std::printf("FAILED: no file was refused with '%s'\n", refusal);
      complete = complete && met;
    }
    return complete;
  }

 private:
  std::string again() const { return path_ + "-again"; }

  std::string change(Case& one, Random& random, std::string& done) {
    mutations::Context context{one.options, one.options.capacity / one.options.num_envs,
                               DeltaCodec(one.options.frame_bytes(), one.options.frame_bytes()), random};
    File file = one.files[random.below(one.files.size())];
    for (std::uint64_t left = random.pick<std::uint64_t>({0, 1, 1, 1, 1, 1, 2, 3}); left > 0; --left) {
      const mutations::Mutation& mutation = mutations::pick(random);
      mutation.apply(file, context);
      done += std::string(done.empty() ? "" : ", ") + mutation.name;
    }
    std::string text = snapshot_text::compose(file, context.ring, one.options.frame_bytes());
    if (random.chance(10)) {
      change_text(text, context);
      done += " and the text";
    }
    return text;
  }

  // Loads the file into the buffer of its case.
  void load(Case& one, const std::string& text, Random& random) {
    try {
      one.held->load(path_);
    } catch (const std::invalid_argument& error) {
      refuse(error.what());
      demand(*one.state == State(*one.held, one.rows), "refused, but the buffer has changed");
      if (refused_ % 64 != 0) return;
      demand(one.held->invariant_violation().empty(), "refused, and the buffer is not sound any more");
      one.held->save(again());
      demand(contents(again()) == one.text, "refused, but the buffer saves something else");
      return;
    }
    ++taken_;
    use(*one.held, text, random);
    one.restore(again());
  }

  // Makes a buffer of the options that the file names, unless they are those of a large one.
  void make(Random& random) {
    ReplayOptions o;
    try {
      o = saved_options(path_);
      if (o.capacity > 5000 || o.stack * o.frame_bytes() > 50000) return;
      Replay replay(o);
      replay.load(path_);
      ++made_;
      use(replay, contents(path_), random);
    } catch (const std::invalid_argument& error) {
      refuse(error.what());
    } catch (const OutOfMemory& error) {
      refuse(error.what());
    }
  }

  // A buffer that has taken a file is a buffer like any other.
  void use(Replay& replay, const std::string& text, Random& random) {
    demand(replay.invariant_violation().empty(), "taken, but: " + replay.invariant_violation());
    replay.save(again());
    if (text.find("\"version\":\"3\"") != std::string::npos) {
      demand(contents(again()) == text, "taken, but saved as something else");
    }
    sample(replay);
    all_frames(replay);
    Games games(replay.options(), random);
    begin_all(replay, games);
    play(replay, games, random, random.chance(30) ? 2 * replay.ring() : 3);
    demand(replay.invariant_violation().empty(), "added to, and then: " + replay.invariant_violation());
    sample(replay);
    all_frames(replay);
  }

  // Counts a refusal by its reason: the message without its numbers.
  void refuse(const std::string& message) {
    ++refused_;
    std::string reason;
    const std::size_t at = message.find(path_);
    for (const char letter : at == std::string::npos ? message : message.substr(at + path_.size() + 2)) {
      const bool digit = letter >= '0' && letter <= '9';
      if (digit && !reason.empty() && reason.back() == '#') continue;
      reason += digit ? '#' : letter;
    }
    for (const char* opening : {"saved with", "capacity: ", "newer"}) {
      if (reason.find(opening) == 0) reason = opening;
    }
    ++reasons_[reason.substr(0, 100)];
  }

  std::uint64_t seed_;
  std::string path_;
  std::vector<Case> cases_;
  std::map<std::string, std::uint64_t> reasons_;
  std::uint64_t tried_ = 0, taken_ = 0, refused_ = 0, made_ = 0;
  bool failed_ = false;
};

struct Arguments {
  std::uint64_t files = 40000, seconds = 0, seed = 0, first = 0;
};

bool parse(int count, char** words, Arguments& arguments) {
  for (int i = 1; i < count; i += 2) {
    const std::string name = words[i];
    std::uint64_t* value = name == "--files"     ? &arguments.files
                           : name == "--seconds" ? &arguments.seconds
                           : name == "--seed"    ? &arguments.seed
                           : name == "--first"   ? &arguments.first
                                                 : nullptr;
    if (value == nullptr || i + 1 == count) return false;
    *value = std::strtoull(words[i + 1], nullptr, 10);
  }
  return true;
}

}  // namespace

int main(int count, char** words) {
  Arguments arguments;
  if (!parse(count, words, arguments)) {
    std::printf("fuzz_snapshot [--files N] [--seconds S] [--seed K] [--first N]\n");
    return 2;
  }
  Fuzzer fuzzer(arguments.seed);
  const auto begun = std::chrono::steady_clock::now();
  const auto goes_on = [&](std::uint64_t tried) {
    if (arguments.seconds == 0) return tried < arguments.files;
    return std::chrono::steady_clock::now() - begun < std::chrono::seconds(arguments.seconds);
  };
  std::uint64_t tried = 0;
  for (; goes_on(tried); ++tried) {
    if (!fuzzer.try_file(arguments.first + tried)) return 1;
  }
  fuzzer.report();
  return tried < kManyFiles || fuzzer.is_complete() ? 0 : 1;
}
