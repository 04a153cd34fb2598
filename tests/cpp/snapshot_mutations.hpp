// What is done to a replay file before it is loaded: every number, record and byte of it may change, alone or so that
// the rest still fits.
#pragma once

#include <limits>
#include <vector>

#include "fastdqn/detail/delta_codec.hpp"
#include "fastdqn/detail/transition.hpp"
#include "replay_games.hpp"
#include "snapshot_text.hpp"

namespace mutations {

using fastdqn::DeltaCodec;
using fastdqn::ReplayOptions;
using games::Random;
using snapshot_text::Array;
using snapshot_text::Bytes;
using snapshot_text::File;

constexpr std::size_t kPerLane = 7;  // numbers: frames, transitions, closed, first, intact, depth, phase

struct Context {
  const ReplayOptions& options;
  std::uint64_t ring;
  DeltaCodec codec;
  Random& random;
};

// A number that is near `old`, near a limit, or another of the array.
inline std::uint64_t other_number(std::uint64_t old, const Array& array, Context& c) {
  switch (c.random.below(14)) {
    case 0:
    case 1:
      return old + 1;
    case 2:
    case 3:
      return old - 1;
    case 4:
      return old + c.ring;
    case 5:
      return old - c.ring;
    case 6:
      return c.random.below(2 * c.ring);
    case 7:
      return array.word(c.random.below(array.words()));
    case 8:
      return 1ULL << c.random.below(64);
    case 9:
      return 0 - (1ULL << c.random.below(64));
    case 10:
      return c.random.below(300);
    case 11:
      return old + (1ULL << c.random.below(64));
    case 12:
      return 0;
    default:
      return ~std::uint64_t{0};
  }
}

// One of these arrays, if it has at least so many bytes.
inline Array* pick_array(File& file, std::initializer_list<const char*> names, std::size_t least,
                         Context& c) {
  Array* array = file.find(c.random.pick(names));
  return array == nullptr || array->bytes.size() < least ? nullptr : array;
}

inline void change_number(File& file, Context& c) {
  Array* array = pick_array(file, {"lanes", "lanes", "counters", "group_counts", "groups", "groups"}, 8, c);
  if (array == nullptr) return;
  const std::size_t at = c.random.below(array->words());
  array->set_word(at, other_number(array->word(at), *array, c));
}

// ---- changes that the rest of the file follows ----

// Where the groups of a lane begin in `groups`, in groups.
inline std::size_t first_group(File& file, std::size_t lane) {
  std::size_t first = 0;
  for (std::size_t i = 0; i < lane; ++i) first += file.find("group_counts")->word(i);
  return first;
}

// Whether the groups' numbers and the records' bytes still belong together.
inline bool has_whole_groups(File& file) {
  const Array *groups = file.find("groups"), *counts = file.find("group_counts"),
              *frames = file.find("frames");
  if (groups == nullptr || counts == nullptr || frames == nullptr || groups->words() % 2 != 0) return false;
  std::uint64_t total = 0, bytes = 0;
  for (std::size_t i = 0; i < counts->words(); ++i) {
    if (counts->word(i) > groups->words()) return false;
    total += counts->word(i);
  }
  for (std::size_t i = 1; i < groups->words(); i += 2) {
    if (groups->word(i) > frames->bytes.size()) return false;
    bytes += groups->word(i);
  }
  return groups->words() > 0 && 2 * total == groups->words() && bytes == frames->bytes.size();
}

// As if a lane had run for many turns of the ring more, up to beyond what a count can be.
inline void grow_old(File& file, Context& c) {
  Array *lanes = file.find("lanes"), *transitions = file.find("transitions"), *groups = file.find("groups");
  if (lanes == nullptr || transitions == nullptr || lanes->words() < kPerLane) return;
  const std::size_t lane = c.random.below(lanes->words() / kPerLane);
  const std::uint64_t limit = 1ULL << c.random.below(63);
  const std::uint64_t frames = c.random.below(limit) / c.ring * c.ring,
                      steps = c.random.below(limit) / c.ring * c.ring;
  const auto add = [](Array& array, std::size_t at, std::uint64_t count) {
    array.set_word(at, array.word(at) + count);
  };
  if (lanes->word(lane * kPerLane + 1) >= c.ring) {
    for (std::size_t number = 1; number < 5; ++number) add(*lanes, lane * kPerLane + number, steps);
  }
  if (lanes->word(lane * kPerLane) < c.ring || (groups != nullptr && !has_whole_groups(file))) return;
  add(*lanes, lane * kPerLane, frames);
  std::size_t first = 0;
  for (std::size_t i = 0; i < lane; ++i) first += std::min(lanes->word(i * kPerLane + 1), c.ring);
  for (std::size_t i = first; i < first + c.ring && 16 * i + 4 <= transitions->bytes.size(); ++i) {
    std::uint32_t low;
    std::memcpy(&low, transitions->bytes.data() + 16 * i, 4);
    low += static_cast<std::uint32_t>(frames);
    std::memcpy(transitions->bytes.data() + 16 * i, &low, 4);
  }
  if (groups == nullptr || lane >= file.find("group_counts")->words()) return;
  const std::size_t begin = first_group(file, lane), count = file.find("group_counts")->word(lane);
  for (std::size_t i = begin; i < begin + count; ++i) add(*groups, 2 * i, frames);
}

// A record of the frames: which group, its place there and in the file.
struct Record {
  std::size_t group, index, at, length;
};

inline std::vector<Record> records_of(File& file, Context& c) {
  std::vector<Record> records;
  if (!has_whole_groups(file)) return records;
  const Array &groups = *file.find("groups"), &frames = *file.find("frames");
  std::size_t at = 0;
  for (std::size_t group = 0; 2 * group < groups.words(); ++group) {
    const std::size_t end = at + groups.word(2 * group + 1);
    for (std::size_t index = 0; at < end; ++index) {
      const std::size_t length = c.codec.check(frames.bytes.data() + at, end - at, index == 0);
      if (length == 0) break;
      records.push_back({group, index, at, length});
      at += length;
    }
    at = end;
  }
  return records;
}

inline std::size_t lane_of(File& file, std::size_t group) {
  std::size_t lane = 0;
  while (first_group(file, lane + 1) <= group) ++lane;
  return lane;
}

// Another record in the place of one, with the group's length as it then is: a frame of noise, kept raw or as all
// words of a sparse picture, a repetition, or nothing.
inline void replace_record(File& file, Context& c) {
  const std::vector<Record> records = records_of(file, c);
  if (records.empty()) return;
  const Record& record = records[c.random.below(records.size())];
  Array &frames = *file.find("frames"), &groups = *file.find("groups");
  Bytes bytes;
  switch (c.random.below(4)) {
    case 0:
      bytes.push_back(DeltaCodec::kRaw);
      for (std::size_t i = 0; i < c.codec.frame_bytes(); ++i) bytes.push_back(c.random.byte());
      break;
    case 1:
      bytes.push_back(
          c.random.pick<std::uint8_t>({DeltaCodec::kRepeat, DeltaCodec::kDelta, DeltaCodec::kKey}));
      break;
    case 2:
      bytes = {c.random.pick<std::uint8_t>({DeltaCodec::kDelta, DeltaCodec::kKey})};
      for (std::size_t i = c.random.below(c.codec.longest_record() + 8); i > 0; --i)
        bytes.push_back(c.random.byte());
      break;
    default:
      break;
  }
  const auto begin = frames.bytes.begin() + static_cast<std::ptrdiff_t>(record.at);
  frames.bytes.insert(frames.bytes.erase(begin, begin + static_cast<std::ptrdiff_t>(record.length)),
                      bytes.begin(), bytes.end());
  groups.set_word(2 * record.group + 1, groups.word(2 * record.group + 1) + bytes.size() - record.length);
}

// A byte of a record: its kind, its mask, its words or any.
inline void change_record(File& file, Context& c) {
  const std::vector<Record> records = records_of(file, c);
  if (records.empty()) return;
  const Record& record = records[c.random.below(records.size())];
  std::uint8_t* bytes = file.find("frames")->bytes.data() + record.at;
  const std::size_t reach = c.random.pick<std::size_t>({1, 2, 4, record.length});
  std::uint8_t& byte = bytes[c.random.below(std::min(reach, record.length))];
  byte = c.random.pick<std::uint8_t>(
      {static_cast<std::uint8_t>(byte ^ 1U << c.random.below(8)), 0, 1, 2, 3, 255, c.random.byte()});
}

// A group cut into two at one of its records, or joined with the one behind it.
inline void cut_or_join_groups(File& file, Context& c) {
  const std::vector<Record> records = records_of(file, c);
  if (records.empty()) return;
  const Record& record = records[c.random.below(records.size())];
  Array &groups = *file.find("groups"), &counts = *file.find("group_counts");
  const std::size_t lane = lane_of(file, record.group), group = record.group;
  const auto entry = groups.bytes.begin() + static_cast<std::ptrdiff_t>(16 * group);
  if (record.index > 0) {
    std::uint64_t before = 0;
    for (const Record& other : records)
      before += other.group == group && other.index < record.index ? other.length : 0;
    groups.bytes.insert(entry, 16, 0);
    groups.set_word(2 * group, groups.word(2 * group + 2));
    groups.set_word(2 * group + 1, before);
    groups.set_word(2 * group + 2, groups.word(2 * group) + record.index);
    groups.set_word(2 * group + 3, groups.word(2 * group + 3) - before);
    counts.set_word(lane, counts.word(lane) + 1);
  } else if (group + 1 < first_group(file, lane + 1)) {
    groups.set_word(2 * group + 1, groups.word(2 * group + 1) + groups.word(2 * group + 3));
    groups.bytes.erase(entry + 16, entry + 32);
    counts.set_word(lane, counts.word(lane) - 1);
  }
}

// Bytes or a lane's share moved over the border between two groups, or between two lanes.
inline void move_border(File& file, Context& c) {
  const bool lanes = c.random.chance(30);
  Array* array = file.find(lanes ? "group_counts" : "groups");
  const std::size_t step = lanes ? 1 : 2;
  if (array == nullptr || array->words() < 2 * step) return;
  const std::size_t at = c.random.below(array->words() / step - 1) * step + (lanes ? 0 : 1);
  const std::uint64_t count = 1 + c.random.below(3);
  array->set_word(at, array->word(at) + count);
  array->set_word(at + step, array->word(at + step) - count);
}

// ---- changes of one array ----

inline void change_transition(File& file, Context& c) {
  Array* array = pick_array(file, {"transitions"}, sizeof(fastdqn::Transition), c);
  if (array == nullptr) return;
  std::uint8_t* record = array->bytes.data() + c.random.below(array->bytes.size() / 16) * 16;
  if (c.random.chance(15)) {  // other frames, but the next observation ends where it did
    const auto back = static_cast<std::uint8_t>(1 + c.random.below(c.options.stack));
    std::uint32_t low;
    std::memcpy(&low, record, 4);
    low -= back;
    std::memcpy(record, &low, 4);
    record[12] = static_cast<std::uint8_t>(record[12] + back);
    record[14] = static_cast<std::uint8_t>(record[12] - 1);
    return;
  }
  if (c.random.chance(40)) {  // which frame it points at
    std::uint32_t low;
    std::memcpy(&low, record, 4);
    low = c.random.pick<std::uint32_t>({low + 1, low - 1, low + static_cast<std::uint32_t>(c.ring),
                                        0 - static_cast<std::uint32_t>(c.random.below(300)), 0,
                                        static_cast<std::uint32_t>(c.random.below(1ULL << 32))});
    std::memcpy(record, &low, 4);
  }
  if (c.random.chance(70)) {
    std::uint8_t& byte = record[8 + c.random.below(8)];  // the reward, the distance, the depths, the flags
    byte =
        c.random.pick<std::uint8_t>({0, 1, 2, 3, static_cast<std::uint8_t>(byte + 1), 255, c.random.byte()});
  }
}

inline void change_priority(File& file, Context& c) {
  Array* array = pick_array(file, {"priorities"}, 8, c);
  if (array == nullptr) return;
  using Limits = std::numeric_limits<double>;
  const double value = c.random.pick({0.0, -0.0, -1.0, Limits::infinity(), Limits::quiet_NaN(), Limits::max(),
                                      Limits::denorm_min(), 1e100, 1e101, 2.5});
  const std::size_t first = c.random.below(array->words());
  for (std::size_t at = first; at < array->words() && (at == first || c.random.chance(80)); ++at) {
    std::memcpy(array->bytes.data() + 8 * at, &value, 8);
  }
}

inline void change_byte(File& file, Context& c) {
  Array& array = file.arrays[c.random.below(file.arrays.size())];
  if (!array.bytes.empty()) array.bytes[c.random.below(array.bytes.size())] = c.random.byte();
}

// Rows or bytes that are gone, come twice or are new.
inline void change_length(File& file, Context& c) {
  Array& array = file.arrays[c.random.below(file.arrays.size())];
  const std::size_t step = c.random.pick<std::size_t>({1, 8, 16, 56});
  const std::size_t steps = array.bytes.size() / step;
  const std::size_t at = steps > 0 ? c.random.below(steps) * step : 0;
  const std::size_t count = std::min(array.bytes.size() - at, step * (1 + c.random.below(3)));
  const auto place = array.bytes.begin() + static_cast<std::ptrdiff_t>(at);
  const Bytes rows(place, place + static_cast<std::ptrdiff_t>(count));
  if (c.random.chance(50)) {
    array.bytes.erase(place, place + static_cast<std::ptrdiff_t>(count));
  } else if (c.random.chance(50)) {
    array.bytes.insert(place, rows.begin(), rows.end());
  } else {
    array.bytes.resize(array.bytes.size() + step, c.random.byte());
  }
}

inline void change_header(File& file, Context& c) {
  if (file.metadata.empty()) return;
  const std::size_t at = c.random.below(file.metadata.size());
  std::string& value = file.metadata[at].second;
  switch (c.random.below(9)) {
    case 0:
      file.metadata.erase(file.metadata.begin() + static_cast<std::ptrdiff_t>(at));
      break;
    case 1:
      file.metadata.push_back(file.metadata[at]);
      break;
    case 2:
      std::swap(value, file.metadata[c.random.below(file.metadata.size())].second);
      break;
    case 3:
      value = std::to_string(c.random.below(100));
      break;
    case 4:
      value = std::to_string(1ULL << c.random.below(64));
      break;
    case 5:
      value += c.random.pick({"0", "x", "x2", " ", ".5", "e3"});
      break;
    case 6:
      value = c.random.pick({"", "-1", "nan", "raw", "delta", "window", "disabled", "1", "2", "3", "4"});
      break;
    case 7:
      std::swap(file.arrays[c.random.below(file.arrays.size())], file.arrays.back());
      break;
    default:
      file.sealed = !file.sealed;
  }
}

// A byte of the text, a cut, or an end that does not belong to it; the header's checksum fits again or does not.
inline void change_text(std::string& text, Context& c) {
  const std::size_t header = std::min<std::size_t>(text.size(), 8 + snapshot_text::header_length(text));
  const std::size_t reach = c.random.pick<std::size_t>({8, header, header, text.size()});
  switch (c.random.below(4)) {
    case 0:
      text.resize(c.random.below(text.size() + 1));
      break;
    case 1:
      text += std::string(1 + c.random.below(40), 'x');
      break;
    default:
      if (reach == 0) return;
      text[c.random.below(reach)] = static_cast<char>(c.random.byte());
  }
  if (c.random.chance(60)) snapshot_text::seal(text);
}

struct Mutation {
  const char* name;
  void (*apply)(File&, Context&);
  unsigned share;
};

constexpr Mutation kAll[] = {
    {"a number", change_number, 5},
    {"an older lane", grow_old, 2},
    {"a record replaced", replace_record, 4},
    {"a byte of a record", change_record, 5},
    {"groups cut or joined", cut_or_join_groups, 3},
    {"a border moved", move_border, 2},
    {"a transition", change_transition, 5},
    {"priorities", change_priority, 2},
    {"a byte", change_byte, 2},
    {"a length", change_length, 2},
    {"the header", change_header, 2},
};

inline const Mutation& pick(Random& random) {
  unsigned total = 0;
  for (const Mutation& mutation : kAll) total += mutation.share;
  std::uint64_t left = random.below(total);
  const Mutation* mutation = kAll;
  while (left >= mutation->share) left -= (mutation++)->share;
  return *mutation;
}

}  // namespace mutations
