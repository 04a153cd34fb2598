#include "fastdqn/detail/snapshot.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <random>
#include <stdexcept>
#include <system_error>

#include "fastdqn/detail/random.hpp"

namespace fastdqn {
namespace {

constexpr std::size_t kChunk = 1 << 20;            // bytes a system call and a step of the checksum
constexpr std::uint64_t kLongestHeader = 1 << 20;  // ours take a few hundred bytes
constexpr const char* kHeaderChecksum = "header_checksum";
const std::string kNoSum(16, '0');  // what stands for a checksum that is not known yet

[[noreturn]] void fail(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

std::string digits_of(std::uint64_t value) {
  char digits[17];
  std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(value));
  return digits;
}

// A 64-bit checksum that sees every bit and the order of the bytes; four chains, so that it keeps up with the
// memory.
class Checksum {
 public:
  // The same bytes must come in the same pieces; all callers cut the parts of arrays into kChunk bytes.
  void add(const std::uint8_t* bytes, std::size_t count) noexcept {
    std::uint64_t words[4];
    for (; count >= sizeof words; bytes += sizeof words, count -= sizeof words) {
      std::memcpy(words, bytes, sizeof words);
      for (int i = 0; i < 4; ++i) chains_[i] = step(chains_[i], words[i]);
    }
    std::memset(words, 0, sizeof words);
    std::memcpy(words, bytes, count);
    for (int i = 0; i < 4; ++i) chains_[i] = step(chains_[i], words[i] + count);
  }

  std::string text() const {
    std::uint64_t sum = 0;
    for (const std::uint64_t chain : chains_) sum = mix_bits(sum + chain);
    return digits_of(sum);
  }

 private:
  static std::uint64_t step(std::uint64_t chain, std::uint64_t word) noexcept {
    chain = (chain ^ word) * 0x9e3779b97f4a7c15ULL;
    return chain ^ (chain >> 29);
  }
  std::uint64_t chains_[4] = {1, 2, 3, 4};
};

[[noreturn]] void refuse_path(const std::string& path, const std::string& why) {
  throw std::invalid_argument("path: " + path + ": " + why);
}

const char* kind_of(mode_t mode) {
  if (S_ISLNK(mode)) return "a link";
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  return "a device";
}

// The system reads a name up to its first NUL, and would take another file for this one.
void check_name(const std::string& path) {
  if (path.find('\0') != std::string::npos) throw std::invalid_argument("path: a NUL is no part of a name");
}

// A rename would take the place of a link or a device, and of what a link names nothing would change: neither
// is what whoever asks for a file can mean.
void check_target(const std::string& path) {
  check_name(path);
  struct stat status;
  if (::lstat(path.c_str(), &status) < 0) {
    if (errno == ENOENT) return;
    fail(path);
  }
  if (S_ISREG(status.st_mode)) return;
  refuse_path(path, std::string("it is ") + kind_of(status.st_mode) +
                        ", which is neither written to nor replaced: name a file");
}

// Opens a file that is read, never anything else: opening a FIFO waits for a writer and opening a device may
// do things, so its kind is asked before, and again of what was opened.
int open_regular(const std::string& path, std::uint64_t& size) {
  check_name(path);
  struct stat status;
  const auto check = [&](int result) {
    if (result < 0) fail(path);
    if (S_ISREG(status.st_mode)) return;
    refuse_path(path, std::string("it is ") + kind_of(status.st_mode) + ", no file that can be read");
  };
  check(::stat(path.c_str(), &status));
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (file < 0) fail(path);
  try {
    check(::fstat(file, &status));
  } catch (...) {
    ::close(file);
    throw;
  }
  size = static_cast<std::uint64_t>(status.st_size);
  return file;
}

// A file that was not there before, removed again unless it was kept.
class NewFile {
 public:
  // The file gets a name of its own beside `path`: a fixed one might be somebody's, or another save's.
  explicit NewFile(const std::string& path) {
    std::random_device random;
    do {
      const std::uint64_t number = std::uint64_t{random()} << 32 | random();
      path_ = path + "." + digits_of(number) + ".partial";
      file_ = ::open(path_.c_str(), O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY | O_CLOEXEC, 0644);
    } while (file_ < 0 && errno == EEXIST);
    if (file_ < 0) fail(path_);
  }
  ~NewFile() {
    if (file_ >= 0) ::close(file_);
    if (!kept_) ::unlink(path_.c_str());
  }
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  void write(const std::uint8_t* bytes, std::size_t count) {
    while (count > 0) {
      const ssize_t written = ::write(file_, bytes, count);
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail(path_);
      bytes += written;
      count -= static_cast<std::size_t>(written);
    }
  }
  void write_at_start(const std::string& text) {
    if (::lseek(file_, 0, SEEK_SET) < 0) fail(path_);
    write(reinterpret_cast<const std::uint8_t*>(text.data()), text.size());
  }
  void keep_as(const std::string& name) {
    if (::fsync(file_) < 0) fail(name);
    check_target(name);  // again: writing took its time
    if (::rename(path_.c_str(), name.c_str()) < 0) fail(name);
    kept_ = true;
  }

 private:
  std::string path_;
  int file_;
  bool kept_ = false;
};

// What the rename is recorded in: without it a power cut may undo the rename.
void sync_folder(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const int file = ::open(folder.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return;
  ::fsync(file);
  ::close(file);
}

std::string shape_text(const std::vector<std::uint64_t>& shape) {
  std::string text;
  for (const std::uint64_t extent : shape) text += (text.empty() ? "" : ",") + std::to_string(extent);
  return "[" + text + "]";
}

// Where the value of a metadata entry lies in a header; npos where there is none.
std::size_t place_of(const std::string& header, const std::string& key) {
  const std::string opening = "\"" + key + "\":\"";
  const std::size_t found = header.find(opening);
  return found == std::string::npos ? found : found + opening.size();
}

// The checksum of a header whose own digits of it are zeros; `at` is their place.
std::string header_sum(std::string header, std::size_t at) {
  header.replace(at, kNoSum.size(), kNoSum);
  Checksum sum;
  sum.add(reinterpret_cast<const std::uint8_t*>(header.data()), header.size());
  return sum.text();
}

// The length and the header, padded with blanks so that the arrays begin at a multiple of 8. `checksum` is of
// the arrays; `sealed` adds that of the header.
std::string header_of(const Snapshot& snapshot, const std::string& checksum, bool sealed) {
  std::string text = "{\"__metadata__\":{";
  for (const auto& entry : snapshot.metadata) text += "\"" + entry.first + "\":\"" + entry.second + "\",";
  text += "\"checksum\":\"" + checksum + "\"";
  if (sealed) text += ",\"" + std::string(kHeaderChecksum) + "\":\"" + kNoSum + "\"";
  text += "}";
  std::uint64_t offset = 0;
  for (const SnapshotArray& array : snapshot.arrays) {
    const std::uint64_t end = offset + array.bytes();
    text += ",\"" + array.name + "\":{\"dtype\":\"" + array.dtype +
            "\",\"shape\":" + shape_text(array.shape) + ",\"data_offsets\":[" + std::to_string(offset) + "," +
            std::to_string(end) + "]}";
    offset = end;
  }
  text += "}";
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::string length(8, '\0');
  for (int i = 0; i < 8; ++i) length[i] = static_cast<char>(std::uint64_t{text.size()} >> (8 * i) & 0xff);
  text = length + text;
  if (!sealed) return text;
  const std::size_t at = place_of(text, kHeaderChecksum);
  return text.replace(at, kNoSum.size(), header_sum(text, at));
}

std::uint64_t total_bytes(const Snapshot& snapshot) {
  std::uint64_t total = 0;
  for (const SnapshotArray& array : snapshot.arrays) total += array.bytes();
  return total;
}

// Calls work(bytes, count) for every kChunk bytes of every part of every array, in the order of the file.
template <class Work>
void for_each_chunk(const Snapshot& snapshot, const Work& work) {
  for (const SnapshotArray& array : snapshot.arrays) {
    for (const Span<std::uint8_t>& part : array.parts) {
      for (std::size_t at = 0; at < part.size(); at += kChunk) {
        work(part.data() + at, std::min(kChunk, part.size() - at));
      }
    }
  }
}

}  // namespace

std::uint64_t SnapshotArray::bytes() const noexcept {
  std::uint64_t total = 0;
  for (const Span<std::uint8_t>& part : parts) total += part.size();
  return total;
}

void write_snapshot(const std::string& path, const Snapshot& snapshot) {
  check_target(path);
  NewFile file(path);
  // The checksum has a fixed length: the header is written again in place once it is known.
  file.write_at_start(header_of(snapshot, kNoSum, true));
  Checksum checksum;
  for_each_chunk(snapshot, [&](const std::uint8_t* bytes, std::size_t count) {
    checksum.add(bytes, count);
    file.write(bytes, count);
  });
  file.write_at_start(header_of(snapshot, checksum.text(), true));
  file.keep_as(path);
  sync_folder(path);
}

SnapshotFile::SnapshotFile(const std::string& path) : path_(path), file_(open_regular(path, size_)) {
  try {
    std::uint8_t length_bytes[8];
    read(0, {length_bytes, 8});
    std::uint64_t length = 0;
    for (int i = 0; i < 8; ++i) length |= std::uint64_t{length_bytes[i]} << (8 * i);
    if (length == 0 || length > kLongestHeader) refuse("not a replay file");
    if (size_ < 8 || length > size_ - 8) refuse("truncated: it ends before its header does");
    header_.resize(8 + length);
    read(0, {reinterpret_cast<std::uint8_t*>(&header_[0]), header_.size()});
    data_offset_ = header_.size();
  } catch (...) {
    ::close(file_);
    throw;
  }
}

SnapshotFile::~SnapshotFile() { ::close(file_); }

void SnapshotFile::refuse(const std::string& why) const { refuse_path(path_, why); }

std::string SnapshotFile::value(const std::string& key) const {
  const std::size_t begin = place_of(header_, key);
  return begin == std::string::npos ? "" : header_.substr(begin, header_.find('"', begin) - begin);
}

bool SnapshotFile::has_header_checksum() const {
  return place_of(header_, kHeaderChecksum) != std::string::npos;
}

void SnapshotFile::verify_header() const {
  const std::string saved = value(kHeaderChecksum);
  if (saved.size() != kNoSum.size() || saved != header_sum(header_, place_of(header_, kHeaderChecksum))) {
    refuse("damaged: the checksum of its header does not fit it");
  }
}

void SnapshotFile::read(std::uint64_t offset, Span<std::uint8_t> out) const {
  std::size_t done = 0;
  while (done < out.size()) {
    const std::size_t count = std::min<std::size_t>(out.size() - done, 1 << 30);
    const ssize_t got =
        ::pread(file_, out.data() + done, count, static_cast<off_t>(data_offset_ + offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(path_);
    if (got == 0) refuse("truncated: it ends before its contents do");
    done += static_cast<std::size_t>(got);
  }
}

void SnapshotFile::verify(const Snapshot& expected) const {
  if (header_ != header_of(expected, value("checksum"), has_header_checksum()))
    refuse("damaged: its header contradicts its contents");
  const std::uint64_t size = data_offset_ + total_bytes(expected);
  if (size_ != size) {
    refuse("truncated or damaged: it has " + std::to_string(size_) + " bytes instead of " +
           std::to_string(size));
  }
  std::vector<std::uint8_t> buffer(std::min<std::uint64_t>(kChunk, total_bytes(expected)));
  Checksum checksum;
  std::uint64_t offset = 0;
  for_each_chunk(expected, [&](const std::uint8_t*, std::size_t count) {
    read(offset, {buffer.data(), count});
    checksum.add(buffer.data(), count);
    offset += count;
  });
  if (checksum.text() != value("checksum")) refuse("damaged: its checksum does not fit its contents");
}

void SnapshotFile::read_array(const Snapshot& layout, std::size_t index) const {
  std::uint64_t offset = 0;
  for (std::size_t i = 0; i < index; ++i) offset += layout.arrays[i].bytes();
  for (const Span<std::uint8_t>& part : layout.arrays[index].parts) {
    read(offset, part);
    offset += part.size();
  }
}

}  // namespace fastdqn
