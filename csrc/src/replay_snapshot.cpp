// Saving and restoring: the second half of Replay, apart because it is about files.
#include <algorithm>
#include <cstdlib>
#include <iomanip>
#include <limits>
#include <locale>
#include <sstream>

#include "fastdqn/detail/delta_ring.hpp"
#include "fastdqn/replay.hpp"

namespace fastdqn {
namespace {

// 1 had no checksum of its header. It is still read where the options are known, since a buffer that has them
// demands every byte of the header. 2 knew raw frames alone.
constexpr int kVersion = 3;
constexpr std::size_t kNumbersPerLane = 7;
constexpr std::size_t kCounters = 4;
// Numbers come first, so that the places of the rest can be told from them; those of groups are of kDelta alone.
constexpr std::size_t kNumbersPerGroup = 2;

std::size_t index_of_array(const Snapshot& snapshot, const std::string& name) {
  std::size_t index = 0;
  while (snapshot.arrays[index].name != name) ++index;
  return index;
}

const char* const kAutoresetNames[] = {"next_step", "same_step", "disabled"};
const char* const kLayoutNames[] = {"separate", "window"};
const char* const kStorageNames[] = {"raw", "delta"};

std::string number_text(double value) {
  std::ostringstream text;
  text.imbue(std::locale::classic());  // whatever the program's locale: a file is read by another
  text << std::setprecision(17) << value;
  return text.str();
}

double number_of(const std::string& text) {
  std::istringstream words(text);
  words.imbue(std::locale::classic());
  double value = 0.0;
  words >> value;
  return value;
}

std::string shape_text(const std::vector<std::uint64_t>& shape) {
  std::string text;
  for (const std::uint64_t extent : shape) text += (text.empty() ? "" : "x") + std::to_string(extent);
  return text;
}

using Metadata = std::vector<std::pair<std::string, std::string>>;

Metadata metadata_of(const ReplayOptions& o, int version = kVersion) {
  Metadata metadata = {{"format", "fastdqn.replay"},
                       {"version", std::to_string(version)},
                       {"capacity", std::to_string(o.capacity)},
                       {"num_envs", std::to_string(o.num_envs)},
                       {"frame_shape", shape_text(o.frame_shape)},
                       {"stack", std::to_string(o.stack)},
                       {"n_step", std::to_string(o.n_step)},
                       {"gamma", number_text(o.gamma)},
                       {"alpha", number_text(o.alpha)},
                       {"autoreset", kAutoresetNames[static_cast<int>(o.autoreset)]},
                       {"layout", kLayoutNames[static_cast<int>(o.layout)]},
                       {"guard_frames", std::to_string(o.guard_frames)},
                       {"seed", std::to_string(o.seed)}};
  if (version >= 3) metadata.push_back({"storage", kStorageNames[static_cast<int>(o.storage)]});
  return metadata;
}

// Returns the version of a file whose header is whole, as far as its version can tell.
int check_format(const SnapshotFile& file) {
  if (file.value("format") != "fastdqn.replay") file.refuse("not a replay file");
  const std::string text = file.value("version");
  const int version = std::atoi(text.c_str());
  if (version > kVersion) {
    file.refuse("newer: version " + std::to_string(version) + ", of which this fastdqn knows " +
                std::to_string(kVersion));
  }
  if (version < 1 || text != std::to_string(version)) file.refuse("damaged: unknown version");
  if ((version >= 2) != file.has_header_checksum())
    file.refuse("damaged: its version contradicts its header");
  if (version >= 2) file.verify_header();
  return version;
}

void check_options(const SnapshotFile& file, const Metadata& expected) {
  for (const auto& entry : expected) {
    const std::string saved = file.value(entry.first);
    if (saved == entry.second) continue;
    file.refuse("saved with " + entry.first + " " + saved + ", but this buffer has " + entry.second);
  }
}

template <class T>
Span<std::uint8_t> bytes_of(std::vector<T>& values) {
  return {reinterpret_cast<std::uint8_t*>(values.data()), values.size() * sizeof(T)};
}

const DeltaRing& delta_ring(const Lane& lane) { return static_cast<const DeltaRing&>(lane.frames()); }
DeltaRing& delta_ring(Lane& lane) { return static_cast<DeltaRing&>(lane.frames()); }

// Frames or transitions of a lane, so that the numbers of rows, which count those of all lanes, fit 63 bits.
std::uint64_t most_of_a_lane(const ReplayOptions& o) { return (1ULL << 62) / o.num_envs; }

int index_of(const SnapshotFile& file, const std::string& key, Span<const char* const> names) {
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (file.value(key) == names[i]) return static_cast<int>(i);
  }
  file.refuse("damaged: unknown " + key);
}

}  // namespace

ReplayOptions saved_options(const std::string& path) {
  const SnapshotFile file(path);
  const int version = check_format(file);
  if (version < 2) {
    file.refuse("older: version " + std::to_string(version) +
                ", whose options no checksum covers, and this "
                "fastdqn writes version " +
                std::to_string(kVersion) +
                ": make a buffer with the options that it was saved with, load the file into it and save it");
  }
  const auto integer = [&](const char* key) { return std::strtoull(file.value(key).c_str(), nullptr, 10); };
  ReplayOptions o;
  o.capacity = integer("capacity");
  o.num_envs = integer("num_envs");
  o.frame_shape.clear();
  const std::string shape = file.value("frame_shape");
  for (const char* text = shape.c_str(); *text != '\0';) {
    char* end = nullptr;
    o.frame_shape.push_back(std::strtoull(text, &end, 10));
    if (end == text) file.refuse("damaged: unknown frame_shape");
    text = *end == 'x' ? end + 1 : end;
  }
  o.stack = static_cast<std::uint32_t>(integer("stack"));
  o.n_step = static_cast<std::uint32_t>(integer("n_step"));
  o.gamma = number_of(file.value("gamma"));
  o.alpha = number_of(file.value("alpha"));
  o.autoreset = static_cast<Autoreset>(index_of(file, "autoreset", {kAutoresetNames, 3}));
  o.layout = static_cast<Layout>(index_of(file, "layout", {kLayoutNames, 2}));
  o.guard_frames = integer("guard_frames");
  o.seed = integer("seed");
  if (version >= 3) o.storage = static_cast<Storage>(index_of(file, "storage", {kStorageNames, 2}));
  // Before anything is made for so many environments: the file has 56 bytes of each.
  if (o.num_envs > file.data_bytes() / (kNumbersPerLane * sizeof(std::uint64_t))) {
    file.refuse("truncated or damaged: " + std::to_string(file.data_bytes()) + " bytes are too few for " +
                std::to_string(o.num_envs) + " environments");
  }
  check_options(file, metadata_of(o, version));  // a number that was cut or rounded on the way
  return o;
}

Replay::Numbers Replay::numbers() const {
  Numbers numbers;
  for (const Lane& lane : lanes_) {
    const Lane::Cursors c = lane.cursors();
    const std::uint64_t entries[kNumbersPerLane] = {
        c.written, c.transitions, c.closed, c.first, c.intact, c.depth, static_cast<std::uint64_t>(c.phase)};
    numbers.lanes.insert(numbers.lanes.end(), entries, entries + kNumbersPerLane);
  }
  numbers.counters = {draws_, episodes_, episode_frames_, whole_stacks_};
  if (options_.storage == Storage::kRaw) return numbers;
  for (const Lane& lane : lanes_) {
    const DeltaRing& ring = delta_ring(lane);
    numbers.group_counts.push_back(ring.groups());
    for (std::uint64_t i = 0; i < ring.groups(); ++i) {
      const DeltaRing::Extent extent = ring.extent(i);
      numbers.groups.insert(numbers.groups.end(), {extent.first, extent.bytes});
    }
  }
  return numbers;
}

void Replay::set_counters(const std::vector<std::uint64_t>& counters) noexcept {
  draws_ = counters[0];
  episodes_ = counters[1];
  episode_frames_ = counters[2];
  whole_stacks_ = counters[3];
}

// Lays out a file for a state of these numbers: only slots that were ever filled are in it. The frames are those of
// `lanes`: raw ones lie in this buffer, whichever lanes are meant.
Snapshot Replay::describe(Numbers& numbers, const std::vector<Lane>& lanes, const Pages& transitions,
                          const double* leaves) const {
  const std::uint64_t envs = options_.num_envs;
  const bool raw = options_.storage == Storage::kRaw;
  SnapshotArray records{"transitions", "U8", {0, sizeof(Transition)}, {}};
  SnapshotArray frames{"frames", "U8", {0}, {}};
  SnapshotArray priorities{"priorities", "F64", {0}, {}};
  for (std::uint64_t env = 0; env < envs; ++env) {
    const std::uint64_t frame_count = std::min(numbers.lanes[env * kNumbersPerLane], ring_);
    const std::uint64_t record_count = std::min(numbers.lanes[env * kNumbersPerLane + 1], ring_);
    const std::uint64_t first_slot = env * ring_;
    if (raw) {
      frames.parts.push_back({frames_.data() + first_slot * frame_bytes_, frame_count * frame_bytes_});
      frames.shape[0] += frame_count;
    }
    for (std::uint64_t i = 0; !raw && i < delta_ring(lanes[env]).groups(); ++i) {
      frames.parts.push_back(delta_ring(lanes[env]).records(i));
      frames.shape[0] += frames.parts.back().size();
    }
    records.parts.push_back(
        {transitions.data() + first_slot * sizeof(Transition), record_count * sizeof(Transition)});
    records.shape[0] += record_count;
    if (leaves == nullptr) continue;
    priorities.parts.push_back({reinterpret_cast<std::uint8_t*>(const_cast<double*>(leaves + first_slot)),
                                record_count * sizeof(double)});
    priorities.shape[0] += record_count;
  }
  if (raw) {
    frames.shape.insert(frames.shape.end(), options_.frame_shape.begin(), options_.frame_shape.end());
  }
  Snapshot snapshot;
  snapshot.metadata = metadata_of(options_);
  snapshot.arrays = {{"lanes", "U64", {envs, kNumbersPerLane}, {bytes_of(numbers.lanes)}},
                     {"counters", "U64", {kCounters}, {bytes_of(numbers.counters)}}};
  if (!raw) {
    const std::uint64_t groups = numbers.groups.size() / kNumbersPerGroup;
    snapshot.arrays.push_back({"group_counts", "U64", {envs}, {bytes_of(numbers.group_counts)}});
    snapshot.arrays.push_back({"groups", "U64", {groups, kNumbersPerGroup}, {bytes_of(numbers.groups)}});
  }
  snapshot.arrays.push_back(records);
  snapshot.arrays.push_back(frames);
  if (leaves != nullptr) snapshot.arrays.push_back(priorities);
  return snapshot;
}

void Replay::save(const std::string& path) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  Numbers state = numbers();
  const double* leaves = priorities_ ? priorities_->tree().leaves() : nullptr;
  write_snapshot(path, describe(state, lanes_, transitions_, leaves));
}

namespace {

// A lane with the cursors of a file, or the reason why it cannot be one.
std::string restore_lane(Lane& lane, const std::uint64_t* numbers, std::uint64_t most) {
  for (std::size_t i = 0; i < 5; ++i) {
    if (numbers[i] > most) return "a count beyond reason";
  }
  if (numbers[5] > 255 || numbers[6] > static_cast<std::uint64_t>(Lane::Phase::kDone))
    return "an unknown phase";
  lane.restore({numbers[0], numbers[1], numbers[2], numbers[3], numbers[4],
                static_cast<std::uint32_t>(numbers[5]), static_cast<Lane::Phase>(numbers[6])});
  return lane.invariant_violation();
}

}  // namespace

// Reads where the groups of each lane begin and makes room for them in lanes that are empty. The numbers are bytes
// from anywhere: nothing is taken from one before it was held against what there can be.
void Replay::read_groups(const SnapshotFile& file, Numbers& numbers, std::vector<Lane>& lanes) const {
  constexpr std::uint64_t kGroupBytes = kNumbersPerGroup * sizeof(std::uint64_t);
  std::uint64_t offset = (numbers.lanes.size() + numbers.counters.size()) * sizeof(std::uint64_t);
  numbers.group_counts.resize(lanes.size());
  file.read(offset, bytes_of(numbers.group_counts));
  offset += numbers.group_counts.size() * sizeof(std::uint64_t);
  std::uint64_t room = file.data_bytes() > offset ? (file.data_bytes() - offset) / kGroupBytes : 0, total = 0;
  for (const std::uint64_t count : numbers.group_counts) {
    if (count > room) file.refuse("truncated or damaged: it is too short for the groups that it should have");
    room -= count;
    total += count;
  }
  numbers.groups.resize(total * kNumbersPerGroup);
  file.read(offset, bytes_of(numbers.groups));
  const std::uint64_t* next = numbers.groups.data();
  for (std::size_t env = 0; env < lanes.size(); ++env) {
    std::vector<DeltaRing::Extent> extents;
    for (std::uint64_t i = 0; i < numbers.group_counts[env]; ++i, next += kNumbersPerGroup) {
      extents.push_back({next[0], next[1]});
    }
    const std::uint64_t written = numbers.lanes[env * kNumbersPerLane];
    const std::string reason =
        written > most_of_a_lane(options_)
            ? "a count beyond reason"
            : delta_ring(lanes[env]).lay_out(written, {extents.data(), extents.size()});
    if (!reason.empty()) file.refuse("damaged: environment " + std::to_string(env) + ": " + reason);
  }
}

void Replay::load(const std::string& path) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const SnapshotFile file(path);
  const int version = check_format(file);
  const Metadata metadata = metadata_of(options_, version);
  if (version < 3 && options_.storage != Storage::kRaw) {
    file.refuse("saved with storage raw, but this buffer has delta");
  }
  check_options(file, metadata);
  Numbers state;
  state.lanes.resize(lanes_.size() * kNumbersPerLane);
  state.counters.resize(kCounters);
  file.read(0, bytes_of(state.lanes));
  file.read(state.lanes.size() * sizeof(std::uint64_t), bytes_of(state.counters));

  // Everything but raw pixels is made beside the present state and checked there.
  Pages transitions(transitions_.size());
  std::optional<PrioritySampler> priorities;
  if (priorities_) priorities.emplace(options_.num_envs, ring_, options_.alpha);
  double* leaves = priorities ? priorities->tree().leaves() : nullptr;
  std::vector<Lane> lanes = make_lanes(transitions);
  const bool raw = options_.storage == Storage::kRaw;
  if (!raw) read_groups(file, state, lanes);
  Snapshot layout = describe(state, lanes, transitions, leaves);
  layout.metadata = metadata;
  file.verify(layout);
  const auto read = [&](const char* name) { file.read_array(layout, index_of_array(layout, name)); };
  read("transitions");
  if (!raw) read("frames");
  for (std::size_t env = 0; env < lanes.size(); ++env) {
    std::string reason = raw ? "" : delta_ring(lanes[env]).adopt();
    if (reason.empty())
      reason = restore_lane(lanes[env], &state.lanes[env * kNumbersPerLane], most_of_a_lane(options_));
    if (!reason.empty()) file.refuse("damaged: environment " + std::to_string(env) + ": " + reason);
  }
  if (priorities) {
    read("priorities");
    const std::string reason = priorities->restore(lanes);
    if (!reason.empty()) file.refuse("damaged: " + reason);
  }

  if (raw) {
    // Empty until the pixels are there: nothing may be sampled should the disk fail now.
    std::vector<Lane> none = make_lanes(transitions);
    std::optional<PrioritySampler> equal;
    if (priorities_) equal.emplace(options_.num_envs, ring_, options_.alpha);
    transitions_ = std::move(transitions);
    lanes_ = std::move(none);
    priorities_ = std::move(equal);
    read("frames");
  } else {
    transitions_ = std::move(transitions);
  }
  lanes_ = std::move(lanes);
  priorities_ = std::move(priorities);
  set_counters(state.counters);
}

}  // namespace fastdqn
