// Pages: zeroed memory from the operating system that costs nothing until it is written.
//
// A replay of a million frames reserves 7 GB of addresses at once and holds only the pages it has filled, so
// a short run with a large capacity stays small.
//
// Ownership: a Pages object owns its memory; movable, not copyable. Threads: no shared state.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <string>

namespace fastdqn {

// Thrown where memory is refused, with the arithmetic in what(). Python sees a MemoryError.
class OutOfMemory : public std::bad_alloc {
 public:
  explicit OutOfMemory(std::string message) : message_(std::move(message)) {}
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  std::string message_;
};

// Bytes of a page of the system's: 4096 on x86, up to 65536 on Arm.
std::size_t page_bytes() noexcept;

class Pages {
 public:
  Pages() noexcept = default;

  // kAddressesOnly: for memory of which most will never be filled; the system is not asked to set it aside.
  enum Kind { kMemory, kAddressesOnly };

  // Reserves `bytes` zeroed bytes, aligned to a page. Throws OutOfMemory. bytes = 0 reserves nothing.
  explicit Pages(std::size_t bytes, Kind kind = kMemory);
  ~Pages();
  Pages(Pages&& other) noexcept;
  Pages& operator=(Pages&& other) noexcept;
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;

  std::uint8_t* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return bytes_; }

  // Gives the bytes from `begin` to `end` back to the system, whole pages of them: they are zero again.
  void release(std::size_t begin, std::size_t end) noexcept;

 private:
  std::uint8_t* data_ = nullptr;
  std::size_t bytes_ = 0;
};

// Where the system says what memory there is.
struct MemoryFiles {
  std::string meminfo = "/proc/meminfo";
  std::string membership = "/proc/self/cgroup";
  std::string cgroups = "/sys/fs/cgroup";  // the folder where they are mounted
};

// Bytes that this process could still fill without swapping: MemAvailable, lowered to what its memory cgroups leave, its
// own and those above, by versions 1 and 2 of cgroups: a container's limit, or a job's. The largest number there is
// where nobody says. Reads files: microseconds.
std::size_t available_memory_bytes(const MemoryFiles& files = {});

}  // namespace fastdqn
