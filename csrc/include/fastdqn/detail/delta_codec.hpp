// DeltaCodec: one frame in few bytes, as what has changed since the frame before. This header is the format's
// manual; docs/replay.md has the same in prose.
//
// A record is one byte of kind and what belongs to it:
//
//   kRaw     0  frame_bytes bytes, the frame itself
//   kDelta   1  a sparse picture of (frame XOR the frame before)
//   kKey     2  a sparse picture of (frame XOR the same frame one row further down): row r is XORed with row
//               r - 1, the first one with nothing
//   kRepeat  3  nothing: the frame equals the one before
//
// A sparse picture is a frame most of whose bytes are zero. It is cut into words of 4 bytes and segments of 8
// words (the last ones may be cut short by the frame's end):
//
//   mask     ceil(segments / 8) bytes; bit s % 8 of byte s / 8 says that segment s has a byte that is not zero
//   words    for each of those segments, in order, one byte; bit w says the same of its word w
//   pixels   for each of those words, in order, its 4 bytes; those beyond the frame's end are zero
//
// Bits are counted from the lowest. Everything is bytes, so the format is the same on every machine and nothing
// needs to be aligned. A frame that would take as much as the frame itself is written as kRaw: no record is
// longer than longest_record().
//
// Cost. Encoding reads both frames, and what has changed of them once more. Decoding walks the segments that
// changed. Both take a few instructions a segment where the processor has AVX2 (found at run time), else some a
// word; decoding a key frame costs about a frame's bytes more. Both may touch up to kSlack bytes behind a record:
// encoding leaves anything there, decoding never uses what it read.
//
// Frames that are decoded live in working memory of working_bytes(), the frame followed by room for the last
// segment, or a record; what is in that room is undefined. Threads: no state. Exceptions: none.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastdqn {

class DeltaCodec {
 public:
  enum Kind : std::uint8_t { kRaw, kDelta, kKey, kRepeat };

  static constexpr std::size_t kWordBytes = 4;
  static constexpr std::size_t kSegmentBytes = 32;
  static constexpr std::size_t kSlack = kSegmentBytes;

  // `row_bytes` is what lies between a byte and the one below it; it may be frame_bytes (one row).
  DeltaCodec(std::size_t frame_bytes, std::size_t row_bytes) noexcept;

  std::size_t frame_bytes() const noexcept { return frame_bytes_; }
  std::size_t longest_record() const noexcept { return 1 + frame_bytes_; }
  std::size_t working_bytes() const noexcept { return 1 + (segments_ + 1) * kSegmentBytes; }

  // Writes the record of a frame by itself to `out` (longest_record() + kSlack bytes of room). Returns its length.
  std::size_t encode_key(const std::uint8_t* frame, std::uint8_t* out) const noexcept;

  // The same of a frame that follows `before`, as what has changed.
  std::size_t encode_delta(const std::uint8_t* before, const std::uint8_t* frame,
                           std::uint8_t* out) const noexcept;

  // Turns the frame before, in `working`, into the frame of `record`; for kRaw and kKey whatever is in
  // `working` does not matter. Returns the record's length. The record must be one that check() lets pass.
  std::size_t decode(const std::uint8_t* record, std::uint8_t* working) const noexcept;

  // The length of the record that begins at `record`, or 0 if the `available` bytes do not begin with a whole
  // one: an unknown kind, a mask beyond the frame, an empty segment, more bytes than there are. For bytes from
  // anywhere. A record that follows no frame (`first`) must be kRaw or kKey.
  std::size_t check(const std::uint8_t* record, std::size_t available, bool first) const noexcept;

  // The same word by word on every processor: what the fast paths are tested against. A frame without one
  // `before` it (nullptr) is written by itself.
  std::size_t encode_plainly(const std::uint8_t* before, const std::uint8_t* frame,
                             std::uint8_t* out) const noexcept;
  std::size_t decode_plainly(const std::uint8_t* record, std::uint8_t* working) const noexcept;

 private:
  template <class Apply>
  std::size_t decode_with(const Apply& apply, const std::uint8_t* record,
                          std::uint8_t* working) const noexcept;
  void add_rows(std::uint8_t* working) const noexcept;
  std::size_t mask_bytes() const noexcept { return (segments_ + 7) / 8; }

  std::size_t frame_bytes_;
  std::size_t row_bytes_;
  std::size_t segments_;
};

}  // namespace fastdqn
