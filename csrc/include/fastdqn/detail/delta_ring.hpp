// DeltaRing: a FrameStore that keeps what changes from one frame to the next (delta_codec.hpp).
//
// Groups. Records follow one another in groups, each of which begins with a frame that is kept by itself, so that
// reading a frame decodes its group up to there and no more. A group ends when
//
//   it has kLongestGroup frames (fewer in a small ring: an eighth of it);
//   its deltas have come to 1 3/4 frames of bytes, which bounds what reading costs: games that change little have
//       long groups, games that change everywhere have short ones;
//   a frame shrinks at least as well by itself, as after a cut in the picture;
//   or the end of the memory is near.
//
// Memory. Records lie in a ring of bytes, a group never across its end. Addresses are reserved for the worst case,
// every frame kept raw; pages are taken from the system as they are filled and given back behind the oldest group.
// So a frame costs its record and 5 bytes to find it, and its group, of which noise has one for each frame, 32 to 64:
// about 1.02 * frame_bytes at the very most for frames of 4,000 bytes or more. The number of frames that live is
// exact: frames do not go earlier because others are large. What lives on beside the ring's frames are those of the oldest group that are needed to decode the rest,
// at most kLongestGroup - 1.
//
// Ownership: the ring owns its memory but for `working`, codec.working_bytes() bytes that reading writes to and
// that several rings may share.
#pragma once

#include <memory>
#include <vector>

#include "fastdqn/detail/delta_codec.hpp"
#include "fastdqn/detail/frame_store.hpp"
#include "fastdqn/detail/pages.hpp"
#include "fastdqn/span.hpp"

namespace fastdqn {

class DeltaRing final : public FrameStore {
 public:
  static constexpr std::uint64_t kLongestGroup = 64;

  // A group as it lies in a file.
  struct Extent {
    std::uint64_t first;  // number of its first frame
    std::uint64_t bytes;  // of its records
  };

  // Throws OutOfMemory where the system refuses the addresses.
  DeltaRing(std::uint64_t ring, const DeltaCodec& codec, std::uint32_t stack, std::uint8_t* working);

  void reserve(std::size_t frames) override;
  const std::uint8_t* recent(std::uint64_t number) const noexcept override {
    return recent_.get() + number % stack_ * frame_bytes();
  }
  void copy_run(std::uint64_t first, std::uint64_t count, std::uint8_t* out) const noexcept override;
  void copy_stack(const StackRef& ref, std::uint32_t stack, std::uint8_t* out) const noexcept override;

  // Decodes once what the two have in common.
  void copy_pair(const StackRef& obs, const StackRef& next, std::uint32_t stack, std::uint8_t* obs_out,
                 std::uint8_t* next_out) const noexcept override;
  void prefetch(const StackRef& ref) const noexcept override;
  StorageCounts counts() const noexcept override;
  std::string invariant_violation() const override;

  // ---- for files ----

  std::uint64_t groups() const noexcept { return end_ - begin_; }
  Extent extent(std::uint64_t index) const noexcept;

  // The records of a group, to be written from or read into.
  Span<std::uint8_t> records(std::uint64_t index) const noexcept;

  // Makes room in an empty ring for `written` frames in groups of these extents. Returns "" or why they cannot
  // be those of a ring like this one.
  std::string lay_out(std::uint64_t written, Span<const Extent> extents);

  // Takes what was read into records() since: "" or what is wrong with it. Until it was called nothing else may be.
  std::string adopt();

 private:
  struct Group {
    std::uint64_t first;  // number of its first frame
    std::uint64_t at;     // of its first record in memory_
    std::uint64_t bytes;
    std::uint32_t raw;  // frames that are kept raw
  };

  void keep(const std::uint8_t* pixels) noexcept override;
  bool must_begin_group() const noexcept;
  std::size_t encode(const std::uint8_t* pixels, bool begins, bool* is_key) noexcept;
  void begin_group() noexcept;
  void drop_groups() noexcept;
  void release_pages() noexcept;
  bool fits(std::uint64_t at) const noexcept {
    return at + codec_.longest_record() + DeltaCodec::kSlack <= memory_.size();
  }

  // Groups are numbered like frames; the first begin_ of them are gone.
  Group& group(std::uint64_t ordinal) noexcept { return groups_[ordinal & (groups_.size() - 1)]; }
  const Group& group(std::uint64_t ordinal) const noexcept { return groups_[ordinal & (groups_.size() - 1)]; }
  std::uint64_t ordinal_of(std::uint64_t number) const noexcept;
  std::uint64_t frames_end(std::uint64_t ordinal) const noexcept {
    return ordinal + 1 < end_ ? group(ordinal + 1).first : written();
  }
  std::uint32_t* ordinals() const noexcept { return reinterpret_cast<std::uint32_t*>(ordinals_.data()); }
  template <class Sink>
  void walk(std::uint64_t first, std::uint64_t last, const Sink& sink) const noexcept;
  std::string group_violation(std::uint64_t ordinal, std::uint64_t* delta_bytes, std::uint32_t* raw) const;

  DeltaCodec codec_;
  std::uint32_t stack_;
  std::uint64_t longest_group_;
  std::uint64_t most_delta_bytes_;
  std::uint8_t* working_;
  Pages memory_;
  Pages ordinals_;                 // per slot the low 32 bits of its group's number
  std::vector<Group> groups_;      // a ring, its size a power of two
  std::uint64_t begin_ = 0;        // the oldest group that is kept
  std::uint64_t end_ = 0;          // one behind the newest
  std::uint64_t head_ = 0;         // where the next record begins
  std::uint64_t delta_bytes_ = 0;  // of the newest group's deltas
  std::uint64_t released_ = 0;     // pages of the memory before here, and behind head_, are the system's
  // The last `stack` frames, frame k at k mod stack. Like all memory here untouched before there is one.
  std::unique_ptr<std::uint8_t[]> recent_;

  friend struct DeltaRingAccess;  // the tests' seeded corruptions
};

}  // namespace fastdqn
