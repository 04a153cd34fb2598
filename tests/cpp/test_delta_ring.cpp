#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <vector>

#include "check.hpp"
#include "fastdqn/detail/delta_ring.hpp"

using fastdqn::DeltaCodec;
using fastdqn::DeltaRing;
using fastdqn::StackRef;
using Bytes = std::vector<std::uint8_t>;

namespace fastdqn {

// Corruptions that invariant_violation() has to see.
struct DeltaRingAccess {
  static std::uint8_t* memory(DeltaRing& ring, std::uint64_t index) {
    return ring.memory_.data() + ring.group(ring.begin_ + index).at;
  }
  static void grow_old(DeltaRing& empty) { empty.begin_ = empty.end_ = (1ULL << 32) - 3; }
  static std::uint64_t touched_pages(const DeltaRing& ring) {
    const std::uint8_t* memory = ring.memory_.data();
    std::uint64_t pages = 0;
    for (std::size_t at = 0; at < ring.memory_.size(); at += 4096) {
      const std::size_t end = std::min<std::size_t>(at + 4096, ring.memory_.size());
      pages += std::any_of(memory + at, memory + end, [](std::uint8_t byte) { return byte != 0; });
    }
    return pages;
  }
  static void lengthen(DeltaRing& ring) { ring.group(ring.end_ - 1).bytes += 1; }
  static void lose_group(DeltaRing& ring) { ++ring.begin_; }
  static void misplace(DeltaRing& ring) { ring.ordinals()[ring.slot(ring.written() - 1)] -= 1; }
  static void spoil_recent(DeltaRing& ring) { ring.recent_[0] ^= 1; }
  static void count_raw(DeltaRing& ring) { ring.group(ring.begin_).raw += 1; }
  static void move_head(DeltaRing& ring) { ring.head_ += 1; }
  static void spend(DeltaRing& ring) { ring.delta_bytes_ += 1; }
};

}  // namespace fastdqn

using fastdqn::DeltaRingAccess;

namespace {

constexpr std::uint32_t kStack = 4;

// A ring beside a plain log of every frame.
struct Logged {
  Logged(std::uint64_t ring, std::size_t frame_bytes, std::size_t row_bytes)
      : codec(frame_bytes, row_bytes), working(codec.working_bytes()) {
    frames = std::make_unique<DeltaRing>(ring, codec, kStack, working.data());
  }

  void push(const Bytes& frame) {
    frames->reserve(1);
    const std::uint64_t number = frames->written();
    CHECK_EQ(frames->push(frame.data()), number % frames->ring());
    log.push_back(frame);
  }

  const Bytes& frame(std::uint64_t number) const { return log[number]; }

  void check_stack(const StackRef& ref, const std::uint8_t* got) const {
    for (std::uint32_t i = 0; i < kStack; ++i) {
      CHECK(std::memcmp(got + i * codec.frame_bytes(), frame(ref.at(i, kStack)).data(),
                        codec.frame_bytes()) == 0);
    }
  }

  // Every live frame.
  void check_frames() const {
    const std::uint64_t first = frames->horizon(), live = frames->live();
    Bytes all(live * codec.frame_bytes());
    frames->copy_run(first, live, all.data());
    for (std::uint64_t n = 0; n < live; ++n) {
      CHECK(std::memcmp(all.data() + n * codec.frame_bytes(), frame(first + n).data(), codec.frame_bytes()) ==
            0);
    }
  }

  // Every live frame, every stack, and every pair of stacks up to `apart` frames apart.
  void check_all(std::uint64_t apart) const {
    CHECK_EQ(frames->invariant_violation(), "");
    const std::uint64_t first = frames->horizon(), end = frames->written();
    Bytes all((end - first) * codec.frame_bytes()), one(kStack * codec.frame_bytes()), two = one;
    frames->copy_run(first, end - first, all.data());
    for (std::uint64_t n = first; n < end; ++n) {
      CHECK(std::memcmp(all.data() + (n - first) * codec.frame_bytes(), frame(n).data(),
                        codec.frame_bytes()) == 0);
      for (std::uint32_t depth = 0; depth < kStack && depth <= n - first; ++depth) {
        const StackRef obs{n, depth};
        frames->prefetch(obs);
        frames->copy_stack(obs, kStack, one.data());
        check_stack(obs, one.data());
        for (std::uint64_t later = 1; later <= apart && n + later < end; ++later) {
          const StackRef next{n + later,
                              static_cast<std::uint32_t>(std::min<std::uint64_t>(later - 1, kStack - 1))};
          frames->copy_pair(obs, next, kStack, one.data(), two.data());
          check_stack(obs, one.data());
          check_stack(next, two.data());
        }
      }
    }
    for (std::uint64_t n = end - std::min<std::uint64_t>(kStack, end - first); n < end; ++n) {
      CHECK(std::memcmp(frames->recent(n), frame(n).data(), codec.frame_bytes()) == 0);
    }
  }

  DeltaCodec codec;
  Bytes working;
  std::unique_ptr<DeltaRing> frames;
  std::vector<Bytes> log;
};

// A ring with what `from` holds, by way of a file's numbers and bytes.
Logged reloaded(const Logged& from, std::uint64_t ring, std::size_t row_bytes) {
  Logged to(ring, from.codec.frame_bytes(), row_bytes);
  std::vector<DeltaRing::Extent> extents;
  for (std::uint64_t i = 0; i < from.frames->groups(); ++i) extents.push_back(from.frames->extent(i));
  CHECK_EQ(to.frames->lay_out(from.frames->written(), {extents.data(), extents.size()}), "");
  for (std::uint64_t i = 0; i < from.frames->groups(); ++i) {
    const auto source = from.frames->records(i), target = to.frames->records(i);
    CHECK_EQ(source.size(), target.size());
    std::memcpy(target.data(), source.data(), source.size());
  }
  CHECK_EQ(to.frames->adopt(), "");
  to.log = from.log;
  return to;
}

// The next frame of a made-up game: nothing, little, much or all of it changes.
Bytes changed(const Bytes& before, std::mt19937& random) {
  Bytes frame = before;
  const unsigned kind = random() % 10;
  const std::size_t changes = kind == 0  ? 0
                              : kind < 7 ? 1 + frame.size() / 40
                              : kind < 9 ? frame.size() / 3
                                         : frame.size() * 3;
  for (std::size_t i = 0; i < changes; ++i)
    frame[random() % frame.size()] = static_cast<std::uint8_t>(random());
  return frame;
}

}  // namespace

TEST(frames_of_any_kind_come_back_through_many_turns) {
  std::mt19937 random(1);
  for (const std::size_t size : {1, 7, 33, 500}) {
    for (const std::uint64_t ring : {5, 40, 700}) {
      Logged f(ring, size, (size + 3) / 4);
      Bytes frame(size);
      for (std::uint64_t i = 0; i < 5 * ring + 3; ++i) {
        f.push(frame = changed(frame, random));
        if (i % (ring / 2 + 1) == 0) f.check_all(ring < 100 ? 7 : 1);
      }
      f.check_all(3);
    }
  }
}

TEST(a_ring_that_was_reloaded_goes_on_as_the_other) {
  std::mt19937 random(2);
  for (const std::uint64_t pushed : {0, 1, 3, 39, 40, 41, 300}) {
    Logged f(40, 60, 10);
    Bytes frame(60);
    for (std::uint64_t i = 0; i < pushed; ++i) f.push(frame = changed(frame, random));
    Logged again = reloaded(f, 40, 10);
    for (int i = 0; i < 90; ++i) {
      if (again.frames->written() > 0) again.check_all(5);
      frame = changed(frame, random);
      f.push(frame);
      again.push(frame);
      CHECK_EQ(again.frames->groups(), f.frames->groups());
      CHECK_EQ(again.frames->counts().bytes, f.frames->counts().bytes);
      CHECK_EQ(again.frames->counts().raw_frames, f.frames->counts().raw_frames);
    }
  }
}

// 64 frames a group where nothing changes; a cut of the picture begins one; noise has no more than a few bytes
// beside the pixels.
TEST(groups_end_where_they_should) {
  Logged still(1000, 7056, 84);
  for (int i = 0; i < 640; ++i) still.push(Bytes(7056, 9));
  CHECK_EQ(still.frames->groups(), 10u);
  CHECK(still.frames->counts().bytes < 640 * 10);

  Logged cut(1000, 7056, 84);
  for (int i = 0; i < 10; ++i) cut.push(Bytes(7056, static_cast<std::uint8_t>(i / 5)));
  CHECK_EQ(cut.frames->groups(), 2u);

  std::mt19937 random(3);
  Logged noisy(1000, 7056, 84);
  for (int i = 0; i < 300; ++i) {
    Bytes frame(7056);
    for (std::uint8_t& byte : frame) byte = static_cast<std::uint8_t>(random());
    noisy.push(frame);
  }
  CHECK_EQ(noisy.frames->counts().raw_frames, 300u);
  CHECK(noisy.frames->counts().bytes < 300 * (7056 + 64));
  noisy.check_all(2);
}

// Every frame raw, and as many as there is room for: the memory is a multiple of pages, and for one of these rings
// none is left over. What is written next may reach the oldest record, not into it.
TEST(a_memory_that_is_full_to_the_last_record_keeps_every_frame) {
  std::mt19937 random(6);
  for (const std::size_t size : {1, 2, 5}) {
    const std::uint64_t most = 4096 / (1 + size);
    for (std::uint64_t ring = most - 66 - 40 / (1 + size); ring <= most - 62; ++ring) {
      Logged f(ring, size, size);
      Bytes frame(size);
      for (std::uint64_t i = 0; i < 3 * ring; ++i) {
        for (std::uint8_t& byte : frame) byte ^= static_cast<std::uint8_t>(1 + random() % 255);
        f.push(frame);
        if (i % 61 != 0 && i + 1 < 3 * ring) continue;
        f.check_frames();
      }
      CHECK_EQ(f.frames->counts().raw_frames, f.frames->written() - f.frames->extent(0).first);
    }
  }
}

// Addresses are reserved for frames kept raw, and records go through all of them: pages behind the oldest group are
// the system's again, zeros, and no others are.
TEST(pages_that_are_given_back_were_free) {
  std::mt19937 random(7);
  Logged f(500, 500, 20);
  Bytes frame(500);
  for (int i = 0; i < 12000; ++i) {
    // Much changes for a while, then little.
    for (int change = i % 3000 < 1000 ? 60 : 4; change > 0; --change) {
      frame[random() % 500] = static_cast<std::uint8_t>(1 + random() % 255);
    }
    f.push(frame);
    if (i % 100 != 0) continue;
    CHECK(DeltaRingAccess::touched_pages(*f.frames) <= f.frames->counts().bytes / 4096 + 4);
    f.check_frames();
  }
}

// Where there is little room between the newest record and the oldest, the newest come to lie where pages are to be
// given back next.
TEST(pages_that_are_filled_again_are_not_given_back) {
  std::mt19937 random(9);
  for (std::uint64_t ring = 24; ring < 64; ++ring) {
    Logged f(ring, 500, 500);
    Bytes frame(500);
    for (std::uint64_t i = 0; i < 6 * ring; ++i) {
      for (std::uint8_t& byte : frame) byte = static_cast<std::uint8_t>(random());
      f.push(frame);
      if (i % 5 == 0) f.check_frames();
    }
  }
}

// A file may have longer groups of raw frames than are ever written: the most bytes that there can be.
TEST(the_largest_groups_of_a_file_have_room) {
  std::mt19937 random(10);
  Logged f(640, 100, 10);
  f.log.assign(2000, Bytes(100));
  std::vector<DeltaRing::Extent> extents;
  for (std::uint64_t first = 2000 - 640 - 63; first < 2000; first += 64) {
    extents.push_back({first, std::min<std::uint64_t>(64, 2000 - first) * 101});
  }
  CHECK_EQ(f.frames->lay_out(2000, {extents.data(), extents.size()}), "");
  for (std::uint64_t i = 0; i < extents.size(); ++i) {
    const auto records = f.frames->records(i);
    for (std::uint64_t k = 0; k * 101 < records.size(); ++k) {
      records[k * 101] = DeltaCodec::kRaw;
      Bytes& frame = f.log[extents[i].first + k];
      for (std::uint8_t& byte : frame) byte = static_cast<std::uint8_t>(random());
      std::copy(frame.begin(), frame.end(), records.data() + k * 101 + 1);
    }
  }
  CHECK_EQ(f.frames->adopt(), "");
  f.check_all(2);
  for (int i = 0; i < 2000; ++i) {
    f.push(changed(f.log.back(), random));
    if (i % 100 == 0) f.check_frames();
  }
  f.check_all(2);
}

TEST(groups_are_found_when_their_numbers_pass_32_bits) {
  std::mt19937 random(8);
  Logged f(40, 60, 10);
  DeltaRingAccess::grow_old(*f.frames);
  Bytes frame(60);
  for (int i = 0; i < 100; ++i) {
    f.push(frame = changed(frame, random));
    f.check_all(5);
  }
}

// The key frame of the oldest group is out of the ring, and the deltas above it are still read.
TEST(a_key_frame_that_is_gone_still_decodes_the_live_ones) {
  Logged f(64, 100, 10);
  Bytes frame(100);
  for (std::uint8_t i = 0; i < 100; ++i) {
    frame[i] = i;
    f.push(frame);
  }
  CHECK(f.frames->extent(0).first < f.frames->horizon());
  f.check_all(6);
}

TEST(numbers_from_anywhere_are_refused) {
  const auto refused = [](std::uint64_t written, std::vector<DeltaRing::Extent> extents) {
    Logged f(80, 100, 10);  // groups of at most 10
    return !f.frames->lay_out(written, {extents.data(), extents.size()}).empty();
  };
  constexpr std::uint64_t kHuge = ~std::uint64_t{0};
  CHECK(!refused(0, {}));
  CHECK(!refused(5, {{0, 50}}));
  CHECK(refused(0, {{0, 50}}));
  CHECK(refused(5, {}));
  CHECK(refused(5, {{1, 50}}));   // frame 0 is in no group
  CHECK(refused(5, {{0, 0}}));    // no bytes
  CHECK(refused(5, {{0, 506}}));  // more than five raw frames
  CHECK(refused(5, {{0, kHuge}}));
  CHECK(refused(11, {{0, 50}}));  // eleven frames in a group
  CHECK(!refused(11, {{0, 50}, {6, 50}}));
  CHECK(refused(11, {{0, 50}, {0, 50}}));
  CHECK(refused(11, {{0, 50}, {kHuge, 50}}));
  CHECK(refused(11, {{0, 50}, {6, 50}, {5, 50}}));
  CHECK(refused(11, {{0, 50}, {6, 50}, {11, 50}}));
  CHECK(refused(200, {{110, 50}, {118, 50}, {126, 50}}));  // 126 to 199 in one group
  CHECK(refused(1ULL << 62, {{0, 50}}));
}

TEST(records_from_anywhere_are_refused) {
  std::mt19937 random(4);
  Logged f(40, 60, 10);
  Bytes frame(60);
  for (int i = 0; i < 200; ++i) f.push(frame = changed(frame, random));
  std::vector<DeltaRing::Extent> extents;
  for (std::uint64_t i = 0; i < f.frames->groups(); ++i) extents.push_back(f.frames->extent(i));
  int refusals = 0;
  for (int round = 0; round < 3000; ++round) {
    Logged to(40, 60, 10);
    CHECK_EQ(to.frames->lay_out(f.frames->written(), {extents.data(), extents.size()}), "");
    for (std::uint64_t i = 0; i < f.frames->groups(); ++i) {
      const auto source = f.frames->records(i), target = to.frames->records(i);
      std::memcpy(target.data(), source.data(), source.size());
    }
    const auto victim = to.frames->records(random() % to.frames->groups());
    for (unsigned change = 0; change < 1 + random() % 3; ++change) {
      victim[random() % victim.size()] = static_cast<std::uint8_t>(random());
    }
    if (!to.frames->adopt().empty()) {
      ++refusals;
      continue;
    }
    Bytes out(40 * 60);  // other pixels, but within bounds
    to.frames->copy_run(to.frames->horizon(), to.frames->live(), out.data());
    CHECK_EQ(to.frames->invariant_violation(), "");
  }
  CHECK(refusals > 300);
}

TEST(bytes_behind_the_last_record_are_refused) {
  Logged f(40, 60, 10);
  for (int i = 0; i < 3; ++i) f.push(Bytes(60, 1));
  DeltaRing::Extent extent = f.frames->extent(0);
  extent.bytes += 1;
  Logged to(40, 60, 10);
  CHECK_EQ(to.frames->lay_out(3, {&extent, 1}), "");
  const auto source = f.frames->records(0), target = to.frames->records(0);
  std::memcpy(target.data(), source.data(), source.size());
  CHECK(to.frames->adopt().find("bytes behind its last record") != std::string::npos);
}

TEST(every_corruption_is_seen) {
  const std::vector<void (*)(DeltaRing&)> corruptions = {
      [](DeltaRing& ring) { *DeltaRingAccess::memory(ring, 1) = 77; },
      [](DeltaRing& ring) { *DeltaRingAccess::memory(ring, 0) = DeltaCodec::kRepeat; },
      DeltaRingAccess::lengthen,
      DeltaRingAccess::lose_group,
      DeltaRingAccess::misplace,
      DeltaRingAccess::spoil_recent,
      DeltaRingAccess::count_raw,
      DeltaRingAccess::move_head,
      DeltaRingAccess::spend,
  };
  for (std::size_t i = 0; i < corruptions.size(); ++i) {
    std::mt19937 random(5);
    Logged f(40, 60, 10);
    Bytes frame(60);
    for (int k = 0; k < 100; ++k) f.push(frame = changed(frame, random));
    CHECK_EQ(f.frames->invariant_violation(), "");
    corruptions[i](*f.frames);
    CHECK(!f.frames->invariant_violation().empty());
  }
}
