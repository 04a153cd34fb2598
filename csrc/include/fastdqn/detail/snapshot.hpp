// Snapshots: named arrays in one safetensors file, written from and read into the caller's own memory.
//
// A file is 8 bytes of header length, a JSON header (text entries under __metadata__, and name, dtype, shape
// and position of each array), and the arrays one after another. Any safetensors reader can open it.
// Little-endian machines only, as the layout says. Two checksums are among the entries: `checksum` of the
// arrays, and `header_checksum` of the 8 bytes and the header with its own digits as zeros, so that a header
// is known to be whole before anything it says is used. Both see every changed bit; neither is meant against
// somebody who computes a checksum for what he has changed.
//
// Nothing is copied as a whole: an array may consist of several parts of memory, which are written or read
// directly. Threads: no shared state. Exceptions: std::system_error for what the system reports (its code is
// errno), std::invalid_argument ("path: ...") for a file that is not what it should be.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "fastdqn/span.hpp"

namespace fastdqn {

// One array of a file: `parts` are its bytes in order, wherever they lie.
struct SnapshotArray {
  std::string name;
  std::string dtype;  // of safetensors: "U8", "U64", "F64", ...
  std::vector<std::uint64_t> shape;
  std::vector<Span<std::uint8_t>> parts;

  std::uint64_t bytes() const noexcept;
};

struct Snapshot {
  std::vector<std::pair<std::string, std::string>> metadata;  // printable text without quotes or backslashes
  std::vector<SnapshotArray> arrays;
};

// Writes a new file beside `path`, PATH.<16 digits>.partial, and renames it when all of it is on the disk:
// `path` is the old file or the whole new one, never a part. No other file is opened, followed or replaced;
// where `path` is anything else than a regular file (a link, a folder, a device) it is refused. A process
// that is killed leaves the .partial file behind.
void write_snapshot(const std::string& path, const Snapshot& snapshot);

class SnapshotFile {
 public:
  // Opens a file and reads its header. A file without a header of this layout is refused, and so is what is
  // no regular file, which is not read at all: a device or a FIFO would block or never end. Memory: the
  // header's length, which is less than the file's and at most 1 MiB.
  explicit SnapshotFile(const std::string& path);
  ~SnapshotFile();
  SnapshotFile(const SnapshotFile&) = delete;
  SnapshotFile& operator=(const SnapshotFile&) = delete;

  // The metadata entry `key`; "" where there is none.
  std::string value(const std::string& key) const;

  // Whether there is a checksum of the header: files of the first version have none.
  bool has_header_checksum() const;

  // Refuses the file unless that checksum fits the header.
  void verify_header() const;

  // Bytes that follow the header.
  std::uint64_t data_bytes() const noexcept { return size_ - data_offset_; }

  // Reads bytes of the arrays, counted from the first array's beginning.
  void read(std::uint64_t offset, Span<std::uint8_t> out) const;

  // Refuses the file unless its header and size are those that write_snapshot() gives `expected`, and the
  // checksum fits its arrays. Reads the whole file through a small buffer; the memory of `expected` stays as
  // it is.
  void verify(const Snapshot& expected) const;

  // Reads array number `index` of `layout` into its parts.
  void read_array(const Snapshot& layout, std::size_t index) const;

  [[noreturn]] void refuse(const std::string& why) const;

 private:
  std::string path_;
  std::uint64_t size_ = 0;  // of the whole file; before file_, whose making sets it
  int file_;
  std::string header_;
  std::uint64_t data_offset_ = 0;
};

}  // namespace fastdqn
