#include "fastdqn/detail/delta_codec.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#if defined(__GNUC__) && defined(__x86_64__)
#include <immintrin.h>
#define FASTDQN_AVX2 1
#endif

namespace fastdqn {
namespace {

constexpr std::size_t kWords = DeltaCodec::kSegmentBytes / DeltaCodec::kWordBytes;

unsigned lowest_bit(unsigned bits) noexcept {
#if defined(__GNUC__)
  return static_cast<unsigned>(__builtin_ctz(bits));
#else
  unsigned index = 0;
  for (; (bits & 1) == 0; bits >>= 1) ++index;
  return index;
#endif
}

constexpr std::array<std::uint8_t, 256> count_bits() noexcept {
  std::array<std::uint8_t, 256> counts{};
  for (std::size_t bits = 1; bits < 256; ++bits) {
    counts[bits] = static_cast<std::uint8_t>(counts[bits / 2] + bits % 2);
  }
  return counts;
}
constexpr std::array<std::uint8_t, 256> kBits = count_bits();

void xor_into(std::uint8_t* to, const std::uint8_t* from, std::size_t count) noexcept {
  for (std::size_t i = 0; i < count; ++i) to[i] ^= from[i];
}

// A sparse picture before it is written: byte i of the frame is XORed with other[i - from], those before `from` with
// nothing.
struct Difference {
  const std::uint8_t* frame;
  const std::uint8_t* other;
  std::size_t from;
  std::size_t frame_bytes;

  // Writes a segment, zeros behind the frame's end, and returns which of its words are not zero.
  std::uint8_t segment(std::size_t index, std::uint8_t* out) const noexcept {
    const std::size_t at = index * DeltaCodec::kSegmentBytes;
    const std::size_t count = std::min(DeltaCodec::kSegmentBytes, frame_bytes - at);
    std::memset(out + count, 0, DeltaCodec::kSegmentBytes - count);
    std::memcpy(out, frame + at, count);
    const std::size_t alone = at < from ? std::min(count, from - at) : 0;
    if (alone < count) xor_into(out + alone, other + at + alone - from, count - alone);
    std::uint32_t words[kWords];
    std::memcpy(words, out, sizeof words);
    unsigned bits = 0;
    for (std::size_t w = 0; w < kWords; ++w) bits |= static_cast<unsigned>(words[w] != 0) << w;
    return static_cast<std::uint8_t>(bits);
  }
};

// The three walks over a record, once plainly and once with AVX2:
//
//   scan    writes the mask and the bytes of words of segments begin ... end - 1
//   pack    writes the pixels that a range of the mask speaks of, and returns where the next ones go
//   apply   XORs a record's pixels into `working`, and returns where they end
struct Scan {
  std::uint8_t* mask;
  std::uint8_t* words;     // where the next segment's byte goes
  std::size_t pixels = 0;  // words that are not zero so far
};

void scan_plainly(const Difference& difference, std::size_t begin, std::size_t end, Scan* scan) noexcept {
  std::uint8_t segment[DeltaCodec::kSegmentBytes];
  for (std::size_t index = begin; index < end; ++index) {
    const std::uint8_t bits = difference.segment(index, segment);
    if (bits == 0) continue;
    scan->mask[index / 8] |= static_cast<std::uint8_t>(1u << index % 8);
    *scan->words++ = bits;
    scan->pixels += kBits[bits];
  }
}

std::uint8_t* pack_plainly(const Difference& difference, const std::uint8_t* mask, std::size_t begin,
                           std::size_t end, std::uint8_t* pixels) noexcept {
  std::uint8_t segment[DeltaCodec::kSegmentBytes];
  for (std::size_t index = begin; index < end; ++index) {
    if ((mask[index / 8] >> index % 8 & 1) == 0) continue;
    unsigned bits = difference.segment(index, segment);
    for (; bits != 0; bits &= bits - 1, pixels += DeltaCodec::kWordBytes) {
      std::memcpy(pixels, segment + lowest_bit(bits) * DeltaCodec::kWordBytes, DeltaCodec::kWordBytes);
    }
  }
  return pixels;
}

const std::uint8_t* apply_plainly(const std::uint8_t* mask, std::size_t mask_bytes,
                                  std::uint8_t* working) noexcept {
  std::size_t changed = 0;
  for (std::size_t byte = 0; byte < mask_bytes; ++byte) changed += kBits[mask[byte]];
  const std::uint8_t* words = mask + mask_bytes;
  const std::uint8_t* pixels = words + changed;
  for (std::size_t byte = 0; byte < mask_bytes; ++byte) {
    for (unsigned segments = mask[byte]; segments != 0; segments &= segments - 1) {
      std::uint8_t* at = working + (byte * 8 + lowest_bit(segments)) * DeltaCodec::kSegmentBytes;
      for (unsigned bits = *words++; bits != 0; bits &= bits - 1, pixels += DeltaCodec::kWordBytes) {
        xor_into(at + lowest_bit(bits) * DeltaCodec::kWordBytes, pixels, DeltaCodec::kWordBytes);
      }
    }
  }
  return pixels;
}

#if defined(FASTDQN_AVX2)
#define FASTDQN_TARGET __attribute__((target("avx2,bmi,popcnt")))

// For each byte of words, where they lie when packed, and the reverse: place[w] is the place of word w among the
// packed ones, negative where it is not among them; word[i] is the i-th one.
struct Permutations {
  alignas(8) std::int8_t place[256][kWords];
  alignas(8) std::int8_t word[256][kWords];
};
constexpr Permutations make_permutations() noexcept {
  Permutations made{};
  for (int bits = 0; bits < 256; ++bits) {
    int next = 0;
    for (int w = 0; w < static_cast<int>(kWords); ++w) {
      const bool here = (bits >> w & 1) != 0;
      if (here) made.word[bits][next] = static_cast<std::int8_t>(w);
      made.place[bits][w] = static_cast<std::int8_t>(here ? next++ : -128);
    }
  }
  return made;
}
constexpr Permutations kPermutations = make_permutations();

FASTDQN_TARGET inline __m256i load(const std::uint8_t* at) noexcept {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
}
FASTDQN_TARGET inline void store(std::uint8_t* at, __m256i value) noexcept {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), value);
}
FASTDQN_TARGET inline __m256i permutation(const std::int8_t* places) noexcept {
  return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(places)));
}

// Eight bytes of a mask as a number whose bit s is segment s; fewer at its end.
inline std::uint64_t chunk_of(const std::uint8_t* mask, std::size_t mask_bytes, std::size_t byte) noexcept {
  std::uint64_t chunk = 0;
  if (byte + sizeof chunk <= mask_bytes) {
    std::memcpy(&chunk, mask + byte, sizeof chunk);
  } else {
    std::memcpy(&chunk, mask + byte, mask_bytes - byte);
  }
  return chunk;
}

// Segments that lie in the frame as a whole and are XORed as a whole. Those before and behind them are for the
// plain walk.
struct Bulk {
  std::size_t begin, end;
  explicit Bulk(const Difference& difference) noexcept
      : begin((difference.from + DeltaCodec::kSegmentBytes - 1) / DeltaCodec::kSegmentBytes),
        end(std::max(begin, difference.frame_bytes / DeltaCodec::kSegmentBytes)) {}
};

// No branch asks whether a segment has changed: which ones do is what the processor would guess wrong.
FASTDQN_TARGET void scan_avx2(const Difference& difference, std::size_t begin, std::size_t end,
                              Scan* scan) noexcept {
  const std::uint8_t* frame = difference.frame;
  const std::uint8_t* other = difference.other;
  std::uint8_t* words = scan->words;
  std::size_t pixels = 0;
  for (std::size_t index = begin; index < end; ++index) {
    const std::size_t at = index * DeltaCodec::kSegmentBytes;
    const __m256i same = _mm256_cmpeq_epi32(load(frame + at), load(other + (at - difference.from)));
    const unsigned bits = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(same))) ^ 0xffu;
    const unsigned changed = bits != 0;
    *words = static_cast<std::uint8_t>(bits);
    words += changed;
    pixels += static_cast<std::size_t>(__builtin_popcount(bits));
    scan->mask[index / 8] |= static_cast<std::uint8_t>(changed << index % 8);
  }
  scan->words = words;
  scan->pixels += pixels;
}

// Writes 32 bytes of pixels for each segment, however few belong to it: the next segment's go over the rest.
FASTDQN_TARGET std::uint8_t* pack_avx2(const Difference& difference, const std::uint8_t* mask,
                                       std::size_t begin, std::size_t end, const std::uint8_t** words,
                                       std::uint8_t* pixels) noexcept {
  const std::size_t mask_bytes = (end + 7) / 8;
  for (std::size_t byte = begin / 8; byte < mask_bytes; byte += 8) {
    std::uint64_t left = chunk_of(mask, mask_bytes, byte);
    for (; left != 0; left &= left - 1) {
      const std::size_t index = byte * 8 + static_cast<std::size_t>(__builtin_ctzll(left));
      if (index < begin || index >= end) continue;
      const std::size_t at = index * DeltaCodec::kSegmentBytes;
      const unsigned bits = *(*words)++;
      const __m256i changed =
          _mm256_xor_si256(load(difference.frame + at), load(difference.other + (at - difference.from)));
      store(pixels, _mm256_permutevar8x32_epi32(changed, permutation(kPermutations.word[bits])));
      pixels += static_cast<std::size_t>(__builtin_popcount(bits)) * DeltaCodec::kWordBytes;
    }
  }
  return pixels;
}

// Each segment is one load, one permutation and one XOR. Reads 32 bytes of pixels, however few there are.
FASTDQN_TARGET const std::uint8_t* apply_avx2(const std::uint8_t* mask, std::size_t mask_bytes,
                                              std::uint8_t* working) noexcept {
  std::size_t changed = 0;
  for (std::size_t byte = 0; byte < mask_bytes; byte += 8) {
    changed += static_cast<std::size_t>(__builtin_popcountll(chunk_of(mask, mask_bytes, byte)));
  }
  const std::uint8_t* words = mask + mask_bytes;
  const std::uint8_t* pixels = words + changed;
  for (std::size_t byte = 0; byte < mask_bytes; byte += 8, working += 64 * DeltaCodec::kSegmentBytes) {
    for (std::uint64_t left = chunk_of(mask, mask_bytes, byte); left != 0; left &= left - 1) {
      std::uint8_t* at =
          working + static_cast<std::size_t>(__builtin_ctzll(left)) * DeltaCodec::kSegmentBytes;
      const unsigned bits = *words++;
      const __m256i places = permutation(kPermutations.place[bits]);
      const __m256i spread = _mm256_permutevar8x32_epi32(load(pixels), places);
      const __m256i kept = _mm256_andnot_si256(_mm256_srai_epi32(places, 31), spread);
      store(at, _mm256_xor_si256(load(at), kept));
      pixels += static_cast<std::size_t>(__builtin_popcount(bits)) * DeltaCodec::kWordBytes;
    }
  }
  return pixels;
}

const bool kFast = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("bmi") != 0 &&
                   __builtin_cpu_supports("popcnt") != 0;
#endif

}  // namespace

DeltaCodec::DeltaCodec(std::size_t frame_bytes, std::size_t row_bytes) noexcept
    : frame_bytes_(frame_bytes),
      row_bytes_(row_bytes),
      segments_((frame_bytes + kSegmentBytes - 1) / kSegmentBytes) {}

namespace {

// Writes the masks, the words and, where the whole is shorter than the frame, the pixels. Returns the length.
std::size_t encode(const Difference& difference, DeltaCodec::Kind kind, std::uint8_t* out,
                   bool plainly) noexcept {
  const std::size_t segments =
      (difference.frame_bytes + DeltaCodec::kSegmentBytes - 1) / DeltaCodec::kSegmentBytes;
  const std::size_t mask_bytes = (segments + 7) / 8;
  const auto raw = [&] {
    out[0] = DeltaCodec::kRaw;
    std::memcpy(out + 1, difference.frame, difference.frame_bytes);
    return 1 + difference.frame_bytes;
  };
  if (mask_bytes >= difference.frame_bytes) return raw();  // so the words below have room, too
  std::uint8_t* const mask = out + 1;
  const std::uint8_t* words = mask + mask_bytes;
  Scan scan{mask, mask + mask_bytes};
  std::memset(mask, 0, mask_bytes);
#if defined(FASTDQN_AVX2)
  const Bulk bulk(difference);
  plainly = plainly || !kFast || bulk.begin == bulk.end;
  if (!plainly) {
    scan_plainly(difference, 0, bulk.begin, &scan);
    scan_avx2(difference, bulk.begin, bulk.end, &scan);
    scan_plainly(difference, bulk.end, segments, &scan);
  }
#endif
  if (plainly) scan_plainly(difference, 0, segments, &scan);
  const std::size_t length =
      static_cast<std::size_t>(scan.words - out) + scan.pixels * DeltaCodec::kWordBytes;
  if (length >= 1 + difference.frame_bytes) return raw();
  out[0] = scan.pixels == 0 && kind == DeltaCodec::kDelta ? DeltaCodec::kRepeat : kind;
  if (out[0] == DeltaCodec::kRepeat) return 1;
#if defined(FASTDQN_AVX2)
  if (!plainly) {
    std::uint8_t* pixels = pack_plainly(difference, mask, 0, bulk.begin, scan.words);
    for (std::size_t index = 0; index < bulk.begin; ++index) words += mask[index / 8] >> index % 8 & 1;
    pixels = pack_avx2(difference, mask, bulk.begin, bulk.end, &words, pixels);
    pack_plainly(difference, mask, bulk.end, segments, pixels);
  }
#endif
  if (plainly) pack_plainly(difference, mask, 0, segments, scan.words);
  return length;
}

}  // namespace

std::size_t DeltaCodec::encode_key(const std::uint8_t* frame, std::uint8_t* out) const noexcept {
  return encode({frame, frame, row_bytes_, frame_bytes_}, kKey, out, false);
}

std::size_t DeltaCodec::encode_delta(const std::uint8_t* before, const std::uint8_t* frame,
                                     std::uint8_t* out) const noexcept {
  return encode({frame, before, 0, frame_bytes_}, kDelta, out, false);
}

std::size_t DeltaCodec::encode_plainly(const std::uint8_t* before, const std::uint8_t* frame,
                                       std::uint8_t* out) const noexcept {
  if (before == nullptr) return encode({frame, frame, row_bytes_, frame_bytes_}, kKey, out, true);
  return encode({frame, before, 0, frame_bytes_}, kDelta, out, true);
}

// Turns the sparse picture of a key frame into the frame: each row is XORed with the one above it.
void DeltaCodec::add_rows(std::uint8_t* working) const noexcept {
  for (std::size_t at = row_bytes_; at < frame_bytes_; at += row_bytes_) {
    xor_into(working + at, working + at - row_bytes_, std::min(row_bytes_, frame_bytes_ - at));
  }
}

template <class Apply>
std::size_t DeltaCodec::decode_with(const Apply& apply, const std::uint8_t* record,
                                    std::uint8_t* working) const noexcept {
  switch (record[0]) {
    case kRaw:
      std::memcpy(working, record + 1, frame_bytes_);
      return 1 + frame_bytes_;
    case kRepeat:
      return 1;
    case kKey:
      std::memset(working, 0, working_bytes());
      break;
    default:
      break;
  }
  const std::uint8_t* end = apply(record + 1, mask_bytes(), working);
  if (record[0] == kKey) add_rows(working);
  return static_cast<std::size_t>(end - record);
}

std::size_t DeltaCodec::decode(const std::uint8_t* record, std::uint8_t* working) const noexcept {
#if defined(FASTDQN_AVX2)
  if (kFast) return decode_with(apply_avx2, record, working);
#endif
  return decode_plainly(record, working);
}

std::size_t DeltaCodec::decode_plainly(const std::uint8_t* record, std::uint8_t* working) const noexcept {
  return decode_with(apply_plainly, record, working);
}

std::size_t DeltaCodec::check(const std::uint8_t* record, std::size_t available, bool first) const noexcept {
  if (available == 0 || record[0] > kRepeat) return 0;
  if (first && (record[0] == kDelta || record[0] == kRepeat)) return 0;
  if (record[0] == kRepeat) return 1;
  if (record[0] == kRaw) return available > frame_bytes_ ? 1 + frame_bytes_ : 0;
  const std::size_t first_words = 1 + mask_bytes();
  if (available < first_words) return 0;
  std::size_t changed = 0;
  for (std::size_t byte = 0; byte < mask_bytes(); ++byte) changed += kBits[record[1 + byte]];
  if (segments_ % 8 != 0 && record[mask_bytes()] >> segments_ % 8 != 0) return 0;
  if (available < first_words + changed) return 0;
  const std::size_t last_words =
      (frame_bytes_ - (segments_ - 1) * kSegmentBytes + kWordBytes - 1) / kWordBytes;
  const bool last_changed = (record[1 + (segments_ - 1) / 8] >> (segments_ - 1) % 8 & 1) != 0;
  if (last_changed && record[first_words + changed - 1] >> last_words != 0) return 0;
  std::size_t length = first_words + changed;
  for (std::size_t i = 0; i < changed; ++i) {
    const std::uint8_t bits = record[first_words + i];
    if (bits == 0) return 0;
    length += kBits[bits] * kWordBytes;
  }
  return length <= available && length < longest_record() ? length : 0;
}

}  // namespace fastdqn
