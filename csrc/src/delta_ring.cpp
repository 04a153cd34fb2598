#include "fastdqn/detail/delta_ring.hpp"

#include <algorithm>
#include <cstring>

namespace fastdqn {
namespace {

// Pages are given back in pieces of this many bytes, or a 256th of the memory: each is a call of the system.
constexpr std::uint64_t kMostReleased = 256 * 1024;

// Lines of a group that are fetched ahead; what comes after them the processor fetches by itself.
constexpr std::uint64_t kPrefetched = 1024;
constexpr std::uint64_t kLine = 64;

// The addresses for every frame raw: the live ones, those of the oldest group that are not live any more, the one
// that is being written, and what is left free before the end of the memory.
std::uint64_t worst_bytes(std::uint64_t ring, std::uint64_t longest_group, const DeltaCodec& codec) {
  const std::uint64_t bytes = (ring + longest_group + 2) * codec.longest_record() + DeltaCodec::kSlack;
  return (bytes + page_bytes() - 1) / page_bytes() * page_bytes();
}

}  // namespace

DeltaRing::DeltaRing(std::uint64_t ring, const DeltaCodec& codec, std::uint32_t stack, std::uint8_t* working)
    : FrameStore(ring, codec.frame_bytes()),
      codec_(codec),
      stack_(stack),
      longest_group_(std::min(kLongestGroup, std::max<std::uint64_t>(1, ring / 8))),
      most_delta_bytes_(codec.frame_bytes() * 7 / 4),
      working_(working),
      memory_(worst_bytes(ring, longest_group_, codec), Pages::kAddressesOnly),
      ordinals_(ring * sizeof(std::uint32_t)),
      groups_(1),
      recent_(new std::uint8_t[stack * codec.frame_bytes()]) {}

void DeltaRing::reserve(std::size_t frames) {
  const std::uint64_t wanted = end_ - begin_ + frames;  // each may begin a group
  if (wanted <= groups_.size()) return;
  std::uint64_t size = groups_.size();
  while (size < wanted) size *= 2;
  std::vector<Group> larger(size);
  for (std::uint64_t ordinal = begin_; ordinal < end_; ++ordinal) {
    larger[ordinal & (size - 1)] = group(ordinal);
  }
  groups_.swap(larger);
}

// ---- writing ----

void DeltaRing::keep(const std::uint8_t* pixels) noexcept {
  const bool begins = must_begin_group();
  if (begins && !fits(head_)) head_ = 0;
  bool is_key = begins;
  const std::size_t length = encode(pixels, begins, &is_key);
  if (is_key) {
    begin_group();
  } else {
    delta_bytes_ += length;
  }
  Group& newest = group(end_ - 1);
  newest.bytes += length;
  newest.raw += memory_.data()[head_] == DeltaCodec::kRaw;
  head_ += length;
  ordinals()[slot(written())] = static_cast<std::uint32_t>(end_ - 1);
  std::memcpy(recent_.get() + written() % stack_ * frame_bytes(), pixels, frame_bytes());
  drop_groups();
}

bool DeltaRing::must_begin_group() const noexcept {
  if (begin_ == end_ || !fits(head_)) return true;
  return written() - group(end_ - 1).first >= longest_group_ || delta_bytes_ >= most_delta_bytes_;
}

// Writes the frame's record at head_. A delta that is long is tried against the frame by itself.
std::size_t DeltaRing::encode(const std::uint8_t* pixels, bool begins, bool* is_key) noexcept {
  std::uint8_t* out = memory_.data() + head_;
  if (begins) return codec_.encode_key(pixels, out);
  const std::size_t as_delta = codec_.encode_delta(recent(written() - 1), pixels, out);
  if (as_delta <= frame_bytes() / 4) return as_delta;
  const std::size_t as_key = codec_.encode_key(pixels, working_);
  if (as_key > as_delta) return as_delta;
  *is_key = true;
  std::memcpy(out, working_, as_key);
  return as_key;
}

void DeltaRing::begin_group() noexcept {
  group(end_++) = {written(), head_, 0, 0};
  delta_bytes_ = 0;
}

// Forgets the groups whose last frame is gone with the frame that is being written.
void DeltaRing::drop_groups() noexcept {
  const std::uint64_t gone = written() + 1 > ring() ? written() + 1 - ring() : 0;
  const std::uint64_t before = begin_;
  while (begin_ + 1 < end_ && group(begin_ + 1).first <= gone) ++begin_;
  if (begin_ != before) release_pages();
}

// What lies between the newest record and the oldest group is free. Where the newest has come round to the memory's
// beginning it may have overtaken released_, which lags behind the oldest group, but never that group.
void DeltaRing::release_pages() noexcept {
  const std::uint64_t tail = group(begin_).at;
  const std::uint64_t page = page_bytes();
  const std::uint64_t step = std::min(kMostReleased, std::max(page, memory_.size() / 256 / page * page));
  if (tail < released_) {  // the oldest group lies at the beginning again
    memory_.release(std::max(released_, head_), memory_.size());
    released_ = 0;
  }
  if (tail - released_ < step) return;
  memory_.release(head_ <= tail ? std::max(released_, head_) : released_, tail);
  released_ = tail / page * page;
}

// ---- reading ----

std::uint64_t DeltaRing::ordinal_of(std::uint64_t number) const noexcept {
  return begin_ + static_cast<std::uint32_t>(ordinals()[slot(number)] - static_cast<std::uint32_t>(begin_));
}

// Decodes frames first ... last and calls sink(number) when each is in working_.
template <class Sink>
void DeltaRing::walk(std::uint64_t first, std::uint64_t last, const Sink& sink) const noexcept {
  std::uint64_t ordinal = ordinal_of(first);
  std::uint64_t number = group(ordinal).first, end = frames_end(ordinal);
  const std::uint8_t* record = memory_.data() + group(ordinal).at;
  for (;; ++number) {
    if (number == end) {
      end = frames_end(++ordinal);
      record = memory_.data() + group(ordinal).at;
    }
    record += codec_.decode(record, working_);
    if (number >= first) sink(number);
    if (number == last) return;
  }
}

void DeltaRing::copy_run(std::uint64_t first, std::uint64_t count, std::uint8_t* out) const noexcept {
  if (count == 0) return;
  walk(first, first + count - 1, [&](std::uint64_t number) {
    std::memcpy(out + (number - first) * frame_bytes(), working_, frame_bytes());
  });
}

namespace {

// Copies a frame to where a stack has it; the oldest to all places that repeat it.
class StackWriter {
 public:
  StackWriter(const StackRef& ref, std::uint32_t stack, std::size_t frame_bytes, std::uint8_t* out) noexcept
      : ref_(ref), stack_(stack), bytes_(frame_bytes), out_(out) {}

  void write(std::uint64_t number, const std::uint8_t* pixels) const noexcept {
    if (number < ref_.oldest() || number > ref_.newest) return;
    std::uint64_t index = stack_ - 1 - (ref_.newest - number);
    std::memcpy(out_ + index * bytes_, pixels, bytes_);
    while (number == ref_.oldest() && index-- > 0) std::memcpy(out_ + index * bytes_, pixels, bytes_);
  }

 private:
  StackRef ref_;
  std::uint32_t stack_;
  std::size_t bytes_;
  std::uint8_t* out_;
};

}  // namespace

void DeltaRing::copy_stack(const StackRef& ref, std::uint32_t stack, std::uint8_t* out) const noexcept {
  const StackWriter writer(ref, stack, frame_bytes(), out);
  walk(ref.oldest(), ref.newest, [&](std::uint64_t number) { writer.write(number, working_); });
}

void DeltaRing::copy_pair(const StackRef& obs, const StackRef& next, std::uint32_t stack,
                          std::uint8_t* obs_out, std::uint8_t* next_out) const noexcept {
  const std::uint64_t gap_ends = next.oldest();
  if (gap_ends > obs.newest + 1 && ordinal_of(gap_ends) != ordinal_of(obs.newest)) {
    copy_stack(obs, stack, obs_out);
    copy_stack(next, stack, next_out);
    return;
  }
  const StackWriter first(obs, stack, frame_bytes(), obs_out), second(next, stack, frame_bytes(), next_out);
  walk(obs.oldest(), next.newest, [&](std::uint64_t number) {
    first.write(number, working_);
    second.write(number, working_);
  });
}

void DeltaRing::prefetch(const StackRef& ref) const noexcept {
#if defined(__GNUC__)
  const Group& one = group(ordinal_of(ref.oldest()));
  const std::uint8_t* begin = memory_.data() + one.at;
  for (std::uint64_t at = 0; at < std::min<std::uint64_t>(one.bytes, kPrefetched); at += kLine) {
    __builtin_prefetch(begin + at);
  }
#else
  (void)ref;
#endif
}

StorageCounts DeltaRing::counts() const noexcept {
  StorageCounts counts;
  counts.bytes = live() * sizeof(std::uint32_t);
  for (std::uint64_t ordinal = begin_; ordinal < end_; ++ordinal) {
    counts.bytes += group(ordinal).bytes + sizeof(Group);
    counts.raw_frames += group(ordinal).raw;
  }
  counts.key_frames = groups();
  return counts;
}

// ---- checking and restoring ----

std::string DeltaRing::invariant_violation() const {
  if (written() == 0) return groups() == 0 ? "" : "groups before there was a frame";
  if (groups() == 0) return "frames without a group";
  if (groups() > groups_.size()) return "more groups than there is room for";
  if (group(begin_).first > horizon()) return "the oldest live frame is in no group";
  if (groups() > 1 && group(begin_ + 1).first <= horizon()) return "a group of frames that are all gone";
  std::uint64_t delta_bytes = 0;
  for (std::uint64_t ordinal = begin_; ordinal < end_; ++ordinal) {
    std::uint32_t raw = 0;
    const std::string reason = group_violation(ordinal, &delta_bytes, &raw);
    if (!reason.empty()) return "the group of frame " + std::to_string(group(ordinal).first) + ": " + reason;
    if (raw != group(ordinal).raw) return "another number of raw frames than is counted";
    for (std::uint64_t n = std::max(group(ordinal).first, horizon()); n < frames_end(ordinal); ++n) {
      if (ordinal_of(n) != ordinal) return "frame " + std::to_string(n) + " is looked for in another group";
    }
  }
  if (delta_bytes != delta_bytes_) return "another number of bytes of deltas than is counted";
  if (head_ != group(end_ - 1).at + group(end_ - 1).bytes) return "the next record has another place";
  const std::uint64_t oldest = written() - std::min<std::uint64_t>(live(), stack_);
  bool same = true;
  walk(oldest, written() - 1, [&](std::uint64_t number) {
    same = same && std::memcmp(working_, recent(number), frame_bytes()) == 0;
  });
  return same ? "" : "one of the newest frames is not what it is compared as";
}

// Walks a group's records; tells how many bytes its deltas have and how many of its frames are raw.
std::string DeltaRing::group_violation(std::uint64_t ordinal, std::uint64_t* delta_bytes,
                                       std::uint32_t* raw) const {
  const Group& one = group(ordinal);
  const std::uint64_t frames = frames_end(ordinal) - one.first;
  if (frames_end(ordinal) <= one.first || frames > kLongestGroup) return "no group has so many frames";
  if (one.at > memory_.size() || one.bytes > memory_.size() - one.at) return "it lies outside the memory";
  const std::uint8_t* record = memory_.data() + one.at;
  std::size_t left = one.bytes;
  *delta_bytes = 0;
  for (std::uint64_t i = 0; i < frames; ++i) {
    const std::size_t length = codec_.check(record, left, i == 0);
    if (length == 0) return "record " + std::to_string(i) + " is none";
    *raw += record[0] == DeltaCodec::kRaw;
    if (i > 0) *delta_bytes += length;
    record += length;
    left -= length;
  }
  return left == 0 ? "" : "bytes behind its last record";
}

DeltaRing::Extent DeltaRing::extent(std::uint64_t index) const noexcept {
  const Group& one = group(begin_ + index);
  return {one.first, one.bytes};
}

Span<std::uint8_t> DeltaRing::records(std::uint64_t index) const noexcept {
  const Group& one = group(begin_ + index);
  return {memory_.data() + one.at, one.bytes};
}

std::string DeltaRing::lay_out(std::uint64_t written, Span<const Extent> extents) {
  set_written(written);
  if (written == 0) return extents.size() == 0 ? "" : "groups before there was a frame";
  if (extents.size() == 0) return "frames without a group";
  if (extents[0].first > horizon()) return "the oldest live frame is in no group";
  if (extents.size() > 1 && extents[1].first <= horizon()) return "a group of frames that are all gone";
  reserve(extents.size());
  for (std::size_t i = 0; i < extents.size(); ++i) {
    const std::uint64_t end = i + 1 < extents.size() ? extents[i + 1].first : written;
    const std::uint64_t first = extents[i].first, bytes = extents[i].bytes;
    if (first >= end || end - first > longest_group_) return "no group has so many frames";
    if (bytes == 0 || bytes > (end - first) * codec_.longest_record()) return "no group has so many bytes";
    group(end_++) = {first, head_, bytes, 0};
    head_ += bytes;  // fits: there are no more frames than the memory was made for
  }
  return "";
}

std::string DeltaRing::adopt() {
  for (std::uint64_t ordinal = begin_; ordinal < end_; ++ordinal) {
    const std::string reason = group_violation(ordinal, &delta_bytes_, &group(ordinal).raw);
    if (!reason.empty()) return "the group of frame " + std::to_string(group(ordinal).first) + ": " + reason;
    for (std::uint64_t n = std::max(group(ordinal).first, horizon()); n < frames_end(ordinal); ++n) {
      ordinals()[slot(n)] = static_cast<std::uint32_t>(ordinal);
    }
  }
  if (written() == 0) return "";
  const std::uint64_t oldest = written() - std::min<std::uint64_t>(live(), stack_);
  walk(oldest, written() - 1, [&](std::uint64_t number) {
    std::memcpy(recent_.get() + number % stack_ * frame_bytes(), working_, frame_bytes());
  });
  return "";
}

}  // namespace fastdqn
