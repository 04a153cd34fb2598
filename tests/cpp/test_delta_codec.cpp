#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "check.hpp"
#include "fastdqn/detail/delta_codec.hpp"

using fastdqn::DeltaCodec;
using Bytes = std::vector<std::uint8_t>;

namespace {

// A record in memory that ends where the codec may read no further.
struct Record {
  Bytes bytes;
  std::size_t length = 0;
};

// The record of a frame, with `before` or by itself, which is the same bytes however it is made.
Record record_of(const DeltaCodec& codec, const std::uint8_t* before, const std::uint8_t* frame) {
  const std::size_t room = codec.longest_record() + DeltaCodec::kSlack;
  Record record{Bytes(room, 0xcd), 0};
  record.length = before == nullptr ? codec.encode_key(frame, record.bytes.data())
                                    : codec.encode_delta(before, frame, record.bytes.data());
  Bytes plain(room, 0xcd);
  CHECK_EQ(codec.encode_plainly(before, frame, plain.data()), record.length);
  CHECK(std::equal(plain.begin(), plain.begin() + static_cast<std::ptrdiff_t>(record.length),
                   record.bytes.begin()));
  return record;
}

Record key_of(const DeltaCodec& codec, const Bytes& frame) { return record_of(codec, nullptr, frame.data()); }

Record delta_of(const DeltaCodec& codec, const Bytes& before, const Bytes& frame) {
  return record_of(codec, before.data(), frame.data());
}

// Decodes with both walks, from working memory that holds `before` and rubbish behind it.
void check_decodes(const DeltaCodec& codec, const Record& record, const Bytes& before, const Bytes& frame,
                   bool first) {
  CHECK(record.length >= 1 && record.length <= codec.longest_record());
  CHECK_EQ(codec.check(record.bytes.data(), record.length, first), record.length);
  for (std::size_t cut = 0; cut < record.length; cut += 1 + record.length / 50) {
    CHECK_EQ(codec.check(record.bytes.data(), cut, first), 0u);
  }
  for (const bool plainly : {false, true}) {
    Bytes working(codec.working_bytes(), 0xab);
    std::copy(before.begin(), before.end(), working.begin());
    const std::size_t length = plainly ? codec.decode_plainly(record.bytes.data(), working.data())
                                       : codec.decode(record.bytes.data(), working.data());
    CHECK_EQ(length, record.length);
    CHECK(std::equal(frame.begin(), frame.end(), working.begin()));
  }
}

Bytes noise(std::size_t count, std::mt19937& random) {
  Bytes bytes(count);
  for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random());
  return bytes;
}

// A picture each of whose rows is the first one again: a key frame of it shrinks, one of noise never does.
Bytes striped(std::size_t count, std::size_t row, std::mt19937& random) {
  Bytes bytes = noise(count, random);
  for (std::size_t i = row; i < count; ++i) bytes[i] = bytes[i - row];
  return bytes;
}

}  // namespace

// Frames of every size up to two segments and of some above, some rows wide, changed in a few bytes, in many, in
// all: each record decodes to the frame.
TEST(every_record_decodes_to_its_frame) {
  std::mt19937 random(1);
  std::vector<std::size_t> sizes;
  for (std::size_t size = 1; size <= 70; ++size) sizes.push_back(size);
  sizes.insert(sizes.end(), {255, 256, 257, 1000, 7056});
  std::size_t raw = 0, shrunk = 0;
  for (const std::size_t size : sizes) {
    for (const std::size_t row : {size, std::size_t{1}, (size + 2) / 3, std::min<std::size_t>(size, 84)}) {
      const DeltaCodec codec(size, row);
      for (const Bytes& before : {noise(size, random), striped(size, row, random)}) {
        for (const std::size_t changes : {std::size_t{0}, std::size_t{1}, std::size_t{5}, size / 4, size}) {
          Bytes frame = before;
          for (std::size_t i = 0; i < changes; ++i)
            frame[random() % size] ^= static_cast<std::uint8_t>(1 + random() % 255);
          const Record key = key_of(codec, frame);
          ++(key.bytes[0] == DeltaCodec::kRaw ? raw : shrunk);
          check_decodes(codec, delta_of(codec, before, frame), before, frame, false);
          check_decodes(codec, key, before, frame, true);
          check_decodes(codec, key, before, frame, false);
        }
      }
    }
  }
  CHECK(raw > 500 && shrunk > 300);
}

TEST(what_equals_the_frame_before_takes_a_byte) {
  const DeltaCodec codec(7056, 84);
  const Bytes frame(7056, 17);
  const Record record = delta_of(codec, frame, frame);
  CHECK_EQ(record.length, 1u);
  CHECK_EQ(int{record.bytes[0]}, int{DeltaCodec::kRepeat});
  CHECK_EQ(codec.check(record.bytes.data(), 1, true), 0u);  // nothing is before it
}

// One byte changed: the kind, 28 bytes of mask (221 segments), one of words, 4 pixels.
TEST(a_changed_byte_takes_a_word) {
  const DeltaCodec codec(7056, 84);
  const Bytes before(7056, 3);
  Bytes frame = before;
  frame[7055] = 4;
  const Record record = delta_of(codec, before, frame);
  CHECK_EQ(record.length, 1u + 28 + 1 + 4);
  CHECK_EQ(int{record.bytes[0]}, int{DeltaCodec::kDelta});
  CHECK_EQ(int{record.bytes[1 + 27]}, 1 << 4);  // segment 220 of 0 ... 220
  CHECK_EQ(int{record.bytes[1 + 28]}, 1 << 3);  // bytes 7040 ... 7055 are 4 words
  CHECK_EQ(int{record.bytes[1 + 28 + 1 + 3]}, 3 ^ 4);
}

// A picture of stripes: only its first row is not that above it.
TEST(a_key_frame_is_what_differs_from_the_row_above) {
  const DeltaCodec codec(7056, 84);
  Bytes frame(7056);
  for (std::size_t i = 0; i < frame.size(); ++i) frame[i] = static_cast<std::uint8_t>(i % 84 + 1);
  const Record record = key_of(codec, frame);
  CHECK_EQ(int{record.bytes[0]}, int{DeltaCodec::kKey});
  CHECK_EQ(record.length, 1u + 28 + 3 + 84);
}

TEST(what_does_not_shrink_is_kept_raw) {
  std::mt19937 random(2);
  const DeltaCodec codec(7056, 84);
  const Bytes before = noise(7056, random), frame = noise(7056, random);
  for (const Record& record : {delta_of(codec, before, frame), key_of(codec, frame)}) {
    CHECK_EQ(record.length, codec.longest_record());
    CHECK_EQ(int{record.bytes[0]}, int{DeltaCodec::kRaw});
    CHECK(std::equal(frame.begin(), frame.end(), record.bytes.begin() + 1));
  }
}

TEST(check_refuses_what_no_encoder_writes) {
  const DeltaCodec codec(40, 8);  // two segments, the second of 2 words; one byte of mask
  const auto check = [&](Bytes bytes, bool first = false) {
    return codec.check(bytes.data(), bytes.size(), first);
  };
  CHECK_EQ(check({1, 0}), 2u);  // nothing has changed: not written, but harmless
  CHECK_EQ(check({1, 1, 1, 9, 9, 9, 9}), 7u);
  CHECK_EQ(check({}), 0u);
  CHECK_EQ(check({4}), 0u);  // an unknown kind
  CHECK_EQ(check({255, 0}), 0u);
  CHECK_EQ(check({1}), 0u);                    // no mask
  CHECK_EQ(check({1, 4, 1, 9, 9, 9, 9}), 0u);  // a third segment
  CHECK_EQ(check({1, 1, 0}), 0u);              // a segment without a word
  CHECK_EQ(check({1, 2, 4, 9, 9, 9, 9}), 0u);  // a word beyond the frame
  CHECK_EQ(check({1, 2, 2, 9, 9, 9, 9}), 7u);
  CHECK_EQ(check({1, 1, 1, 9, 9, 9}), 0u);           // too few pixels
  CHECK_EQ(check({1, 3, 1}), 0u);                    // too few words
  CHECK_EQ(check({1, 1, 1, 9, 9, 9, 9}, true), 0u);  // a delta of nothing
  CHECK_EQ(check({3}, true), 0u);
  CHECK_EQ(check({2, 1, 1, 9, 9, 9, 9}, true), 7u);
  CHECK_EQ(check(Bytes(41, 0), true), 41u);
  CHECK_EQ(check(Bytes(40, 0), true), 0u);  // raw, and short of a byte
  Bytes all = {1, 3, 255, 3};
  all.resize(4 + 40, 7);
  CHECK_EQ(check(all), 0u);  // longer than the frame: it would be raw
}

// Bytes from anywhere: whatever check() lets pass can be decoded inside the memory (for the sanitizers), and
// both walks agree.
TEST(random_bytes_are_refused_or_decoded_within_bounds) {
  std::mt19937 random(3);
  std::size_t taken = 0;
  for (int round = 0; round < 20000; ++round) {
    const std::size_t size = 1 + random() % 100;
    const DeltaCodec codec(size, 1 + random() % size);
    Bytes bytes = noise(codec.longest_record(), random);
    bytes[0] %= 5;
    for (std::size_t i = 1; i < bytes.size(); ++i) {
      if (random() % 2 != 0) bytes[i] &= static_cast<std::uint8_t>(random() & random());
    }
    const std::size_t length = codec.check(bytes.data(), bytes.size(), false);
    if (length == 0) continue;
    ++taken;
    bytes.resize(length);
    bytes.resize(length + DeltaCodec::kSlack, 0xee);
    Bytes one(codec.working_bytes(), 1), other = one;
    CHECK_EQ(codec.decode(bytes.data(), one.data()), length);
    CHECK_EQ(codec.decode_plainly(bytes.data(), other.data()), length);
    CHECK(std::memcmp(one.data(), other.data(), size) == 0);
  }
  CHECK(taken > 1000);
}
