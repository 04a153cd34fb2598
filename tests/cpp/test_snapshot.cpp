#include <sys/stat.h>

#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <locale>
#include <system_error>

#include "check.hpp"
#include "fastdqn/detail/snapshot.hpp"
#include "replay_fixture.hpp"
#include "snapshot_text.hpp"

using namespace fastdqn;
using fixture::Batch;
using fixture::Rows;

namespace {

// A path in a folder of its own, removed at the end.
struct TemporaryPath {
  TemporaryPath() {
    folder = (std::filesystem::temp_directory_path() / "fastdqn-XXXXXX").string();  // honours TMPDIR
    CHECK(::mkdtemp(folder.data()) != nullptr);
    path = folder + "/replay.safetensors";
  }
  ~TemporaryPath() {
    std::remove(path.c_str());
    std::remove(folder.c_str());
  }
  std::string folder, path;
};

std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

void put(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary).write(text.data(), static_cast<std::streamsize>(text.size()));
}

ReplayOptions saved_like() {
  ReplayOptions o = fixture::options(24, 2);
  o.frame_shape = {1, 1};
  o.n_step = 2;
  o.alpha = 0.5;
  o.seed = 77;
  return o;
}

// Steps both environments `count` times; the first ends an episode every seven steps.
void play(Replay& replay, int from, int count) {
  for (int k = from; k < from + count; ++k) {
    const auto older = static_cast<std::uint8_t>(k), newer = static_cast<std::uint8_t>(k + 1);
    replay.add(Rows().row(0, k, {older, newer}, 1.0f, k % 7 == 3).row(1, k, {older, newer}).add(), nullptr);
  }
}

void fill(Replay& replay, int count) {
  replay.begin(Rows().row(0, 0, {0, 0}).row(1, 0, {0, 0}).begin(), nullptr);
  play(replay, 0, count);
}

std::string state(Replay& replay) {
  TemporaryPath file;
  replay.save(file.path);
  return contents(file.path);
}

// A buffer that is asked to load what it must refuse, and must not change.
struct Refuser {
  explicit Refuser(const ReplayOptions& options = saved_like()) : replay(options) {
    fill(replay, 9);
    before = state(replay);
  }
  // What load() of a file with this text says; "" where it succeeds.
  std::string operator()(const std::string& text) {
    put(file.path, text);
    try {
      replay.load(file.path);
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "";
  }
  bool unchanged() { return state(replay) == before; }

  TemporaryPath file;
  Replay replay;
  std::string before;
};

std::string good_text() {
  Replay replay(saved_like());
  fill(replay, 40);
  return state(replay);
}

}  // namespace

TEST(a_restored_buffer_gives_the_same_batches) {
  for (const int steps : {3, 11, 40}) {
    Replay first(saved_like()), second(saved_like());
    fill(first, steps);
    fill(second, 5);
    Batch batch(16, 2, 3), other(16, 2, 3);
    first.sample(16, 1.0, batch.view());
    first.update_priorities(batch.row, std::vector<double>(16, 2.5));
    TemporaryPath file;
    first.save(file.path);
    second.load(file.path);
    CHECK_EQ(second.invariant_violation(), "");
    for (int round = 0; round < 5; ++round) {
      first.sample(16, 0.4, batch.view());
      second.sample(16, 0.4, other.view());
      CHECK(batch.row == other.row && batch.obs == other.obs && batch.next_obs == other.next_obs);
      CHECK(batch.reward == other.reward && batch.weight == other.weight && batch.action == other.action);
      play(first, steps + round, 1);
      play(second, steps + round, 1);
    }
    CHECK(state(first) == state(second));
  }
}

TEST(an_empty_buffer_is_saved_too) {
  Replay first(saved_like()), second(saved_like());
  fill(second, 5);
  TemporaryPath file;
  first.save(file.path);
  second.load(file.path);
  CHECK_EQ(second.size(), 0u);
  CHECK(state(first) == state(second));
}

TEST(the_options_are_in_the_file) {
  Replay replay(saved_like());
  TemporaryPath file;
  replay.save(file.path);
  const ReplayOptions o = saved_options(file.path);
  CHECK_EQ(o.capacity, 24u);
  CHECK_EQ(o.num_envs, 2u);
  CHECK((o.frame_shape == std::vector<std::uint64_t>{1, 1}));
  CHECK_EQ(o.gamma, 0.5);
  CHECK_EQ(o.alpha, 0.5);
  CHECK_EQ(o.seed, 77u);
  CHECK(o.autoreset == Autoreset::kNextStep && o.layout == Layout::kSeparate);
}

TEST(numbers_are_written_alike_whatever_the_programs_locale) {
  // As after setlocale() in a country that writes 0,99.
  struct Comma : std::numpunct<char> {
    char do_decimal_point() const override { return ','; }
  };
  const std::locale before = std::locale::global(std::locale(std::locale::classic(), new Comma));
  const char* const decimal_comma =
      std::setlocale(LC_NUMERIC, "de_DE.UTF-8");  // null where it is not installed
  ReplayOptions options = saved_like();
  options.gamma = 0.99;
  TemporaryPath file;
  Replay(options).save(file.path);
  const ReplayOptions read = saved_options(file.path);
  std::locale::global(before);
  if (decimal_comma != nullptr) std::setlocale(LC_NUMERIC, "C");
  CHECK_EQ(read.gamma, 0.99);
  CHECK(contents(file.path).find("0.98999999999999999") != std::string::npos);
  CHECK_EQ(saved_options(file.path).gamma, 0.99);
}

TEST(a_name_with_a_nul_is_refused) {
  TemporaryPath file;
  Replay replay(saved_like());
  const std::string name = file.path + std::string("\0rest", 5);
  for (int round = 0; round < 2; ++round) {
    CHECK_THROWS(std::invalid_argument, "a NUL is no part of a name", replay.save(name));
    CHECK_THROWS(std::invalid_argument, "a NUL is no part of a name", replay.load(name));
    CHECK_THROWS(std::invalid_argument, "a NUL is no part of a name", saved_options(name));
    replay.save(file.path);  // then there is what the system would take it for
  }
}

TEST(other_options_are_refused_by_name) {
  TemporaryPath file;
  put(file.path, good_text());
  ReplayOptions o = saved_like();
  o.n_step = 3;
  Replay replay(o);
  CHECK_THROWS(std::invalid_argument, "saved with n_step 2, but this buffer has 3", replay.load(file.path));
}

TEST(every_truncation_is_refused) {
  const std::string text = good_text();
  Refuser refusal;
  for (std::size_t length = 0; length < text.size(); length += length < 40 ? 1 : 7) {
    CHECK(refusal(text.substr(0, length)).find("path: ") == 0);
  }
  CHECK(refusal(text + "x").find("bytes instead of") != std::string::npos);
  CHECK(refusal.unchanged());
}

TEST(every_flipped_bit_is_refused) {
  const std::string text = good_text();
  Refuser refusal;
  for (std::size_t at = 0; at < text.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = text;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << bit));
      CHECK(refusal(damaged).find("path: ") == 0);
    }
  }
  CHECK(refusal.unchanged());
  CHECK_EQ(refusal(text), "");
}

// Fault: options of a damaged header, of which a buffer would be made.
TEST(no_option_is_taken_from_a_damaged_header) {
  const std::string text = good_text();
  const std::size_t header = text.find("}}") + 2;
  TemporaryPath file;
  for (std::size_t at = 0; at < header; ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = text;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << bit));
      put(file.path, damaged);
      CHECK_THROWS(std::invalid_argument, "path: ", saved_options(file.path));
    }
  }
}

// Faults: pixels from before the first frame, sums that overflow, names of rows that do. fuzz_snapshot.cpp looks for
// more of the kind.
TEST(numbers_that_lead_outside_are_refused_though_their_checksums_fit) {
  Replay replay(saved_like());
  fill(replay, 1);  // its one transition goes from frame 0 to frame 1
  const snapshot_text::File good = snapshot_text::parse(state(replay));
  const auto refused = [](snapshot_text::File file, const char* array, std::size_t at,
                          const std::vector<std::uint8_t>& bytes) {
    std::copy(bytes.begin(), bytes.end(), file.find(array)->bytes.begin() + static_cast<std::ptrdiff_t>(at));
    Refuser refusal;
    const std::string message = refusal(snapshot_text::compose(file, 12, 1));
    CHECK(message.empty() || refusal.unchanged());
    return message;
  };
  const auto has = [](const std::string& message, const char* reason) {
    return message.find(reason) != std::string::npos;
  };
  CHECK_EQ(refused(good, "lanes", 0, {}), "");
  // From frame -1 to frame 1, of which both observations are two deep.
  snapshot_text::File early = good;
  early.find("transitions")->bytes[12] = 2;
  CHECK(has(refused(early, "transitions", 0, {255, 255, 255, 255}), "frames that were never written"));
  // 1e101: no priority can be so large.
  CHECK(
      has(refused(good, "priorities", 0, {0x5c, 0xf4, 0xf9, 0x6e, 0x18, 0xdc, 0xe6, 0x54}), "is no weight"));
  // 2^61 + 12 transitions in each of two environments.
  snapshot_text::File old = snapshot_text::parse(good_text());
  for (std::size_t number = 1; number < 5; ++number) old.find("lanes")->set_word(number, (1ULL << 61) + 12);
  CHECK(has(refused(old, "lanes", 0, {}), "a count beyond reason"));
}

// Fault: memory for as many groups as the file names.
TEST(a_file_is_not_believed_how_many_groups_it_has) {
  ReplayOptions o = saved_like();
  o.storage = Storage::kDelta;
  Replay replay(o);
  fill(replay, 40);
  snapshot_text::File file = snapshot_text::parse(state(replay));
  for (const std::uint64_t count : {1ULL << 10, 1ULL << 40, ~0ULL}) {
    file.find("group_counts")->set_word(1, count);
    Refuser refusal(o);
    CHECK(refusal(snapshot_text::compose(file, 12, 1)).find("too short for the groups") != std::string::npos);
    CHECK(refusal.unchanged());
  }
}

TEST(foreign_and_newer_files_are_refused) {
  Refuser refusal;
  CHECK(refusal("PK\x03\x04 this is some other kind of file").find("not a replay file") != std::string::npos);
  std::string foreign = "{\"x\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}";
  foreign = std::string(1, static_cast<char>(foreign.size())) + std::string(7, '\0') + foreign;
  CHECK(refusal(foreign).find("not a replay file") != std::string::npos);
  std::string newer = good_text();
  newer[newer.find("\"version\":\"3\"") + 11] = '4';
  CHECK(refusal(newer).find("newer: version 4") != std::string::npos);
  CHECK(refusal.unchanged());
}

TEST(a_missing_file_and_folder_are_system_errors) {
  Replay replay(saved_like());
  CHECK_THROWS(std::system_error, "No such file", replay.load("/nonexistent/replay"));
  CHECK_THROWS(std::system_error, "No such file", replay.save("/nonexistent/replay"));
}

TEST(saving_replaces_the_old_file_and_leaves_no_other) {
  TemporaryPath file;
  put(file.path, "old");
  Replay replay(saved_like());
  replay.save(file.path);
  CHECK(contents(file.path) != "old");
  const auto entries = std::filesystem::directory_iterator(file.folder);
  CHECK_EQ(std::distance(begin(entries), end(entries)), 1);
}

TEST(what_is_no_file_is_neither_read_nor_written) {
  Replay replay(saved_like());
  TemporaryPath file;
  CHECK(::mkfifo(file.path.c_str(), 0600) == 0);
  CHECK_THROWS(std::invalid_argument, "it is a FIFO", replay.load(file.path));
  CHECK_THROWS(std::invalid_argument, "it is a FIFO", saved_options(file.path));
  CHECK_THROWS(std::invalid_argument, "it is a FIFO", replay.save(file.path));
  CHECK_THROWS(std::invalid_argument, "it is a folder", replay.save(file.folder));
  CHECK_THROWS(std::invalid_argument, "it is a device", replay.load("/dev/zero"));
  const std::string precious = file.folder + "/precious";
  put(precious, "precious");
  std::remove(file.path.c_str());
  std::filesystem::create_symlink(precious, file.path);
  std::filesystem::create_symlink(precious, file.path + ".partial");
  CHECK_THROWS(std::invalid_argument, "it is a link", replay.save(file.path));
  std::remove(file.path.c_str());
  replay.save(file.path);
  CHECK_EQ(contents(precious), "precious");
  CHECK(std::filesystem::is_symlink(file.path + ".partial"));
  std::remove(precious.c_str());
  std::remove((file.path + ".partial").c_str());
}
