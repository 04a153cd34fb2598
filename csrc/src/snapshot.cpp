#include "fastdqn/snapshot.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <system_error>

#include "fastdqn/random.hpp"

namespace fastdqn {
namespace {

constexpr std::size_t kChunk = 1 << 20;            // bytes a system call and a step of the checksum
constexpr std::uint64_t kLongestHeader = 1 << 20;  // ours take a few hundred bytes

[[noreturn]] void fail(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
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
    char digits[17];
    std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(sum));
    return digits;
  }

 private:
  static std::uint64_t step(std::uint64_t chain, std::uint64_t word) noexcept {
    chain = (chain ^ word) * 0x9e3779b97f4a7c15ULL;
    return chain ^ (chain >> 29);
  }
  std::uint64_t chains_[4] = {1, 2, 3, 4};
};

// A file descriptor with the file removed again unless it was kept.
class NewFile {
 public:
  explicit NewFile(std::string path) : path_(std::move(path)) {
    file_ = ::open(path_.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
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
    if (::fsync(file_) < 0 || ::rename(path_.c_str(), name.c_str()) < 0) fail(name);
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

// The length and the header, padded with blanks so that the arrays begin at a multiple of 8.
std::string header_of(const Snapshot& snapshot, const std::string& checksum) {
  std::string text = "{\"__metadata__\":{";
  for (const auto& entry : snapshot.metadata) text += "\"" + entry.first + "\":\"" + entry.second + "\",";
  text += "\"checksum\":\"" + checksum + "\"}";
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
  return length + text;
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
  NewFile file(path + ".partial");
  // The checksum has a fixed length: the header is written again in place once it is known.
  file.write_at_start(header_of(snapshot, Checksum().text()));
  Checksum checksum;
  for_each_chunk(snapshot, [&](const std::uint8_t* bytes, std::size_t count) {
    checksum.add(bytes, count);
    file.write(bytes, count);
  });
  file.write_at_start(header_of(snapshot, checksum.text()));
  file.keep_as(path);
  sync_folder(path);
}

SnapshotFile::SnapshotFile(const std::string& path)
    : path_(path), file_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
  if (file_ < 0) fail(path_);
  try {
    data_offset_ = 0;
    std::uint8_t length_bytes[8];
    read(0, {length_bytes, 8});
    std::uint64_t length = 0;
    for (int i = 0; i < 8; ++i) length |= std::uint64_t{length_bytes[i]} << (8 * i);
    if (length == 0 || length > kLongestHeader) refuse("not a replay file");
    header_.resize(8 + length);
    read(0, {reinterpret_cast<std::uint8_t*>(&header_[0]), header_.size()});
    data_offset_ = header_.size();
  } catch (...) {
    ::close(file_);
    throw;
  }
}

SnapshotFile::~SnapshotFile() { ::close(file_); }

void SnapshotFile::refuse(const std::string& why) const {
  throw std::invalid_argument("path: " + path_ + ": " + why);
}

std::string SnapshotFile::value(const std::string& key) const {
  const std::string opening = "\"" + key + "\":\"";
  const std::size_t found = header_.find(opening);
  if (found == std::string::npos) return "";
  const std::size_t begin = found + opening.size();
  return header_.substr(begin, header_.find('"', begin) - begin);
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
  if (header_ != header_of(expected, value("checksum")))
    refuse("damaged: its header contradicts its contents");
  struct stat status;
  if (::fstat(file_, &status) < 0) fail(path_);
  const std::uint64_t size = data_offset_ + total_bytes(expected);
  if (static_cast<std::uint64_t>(status.st_size) != size) {
    refuse("truncated or damaged: it has " + std::to_string(status.st_size) + " bytes instead of " +
           std::to_string(size));
  }
  std::vector<std::uint8_t> buffer(kChunk);
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
