#include "fastdqn/detail/pages.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>
#include <utility>

namespace fastdqn {
namespace {

constexpr std::size_t kUnlimited = std::numeric_limits<std::size_t>::max();

std::size_t system_available_bytes() {
  std::ifstream meminfo("/proc/meminfo");
  for (std::string line; std::getline(meminfo, line);) {
    std::istringstream words(line);
    std::string name;
    std::size_t kibibytes = 0;
    if (words >> name >> kibibytes && name == "MemAvailable:") return kibibytes * 1024;
  }
  return kUnlimited;
}

// A cgroup's number of bytes, or kUnlimited where the file is absent or says "max".
std::size_t read_bytes(const std::string& path) {
  std::ifstream file(path);
  std::size_t bytes = 0;
  return file >> bytes ? bytes : kUnlimited;
}

std::size_t cgroup_available_bytes() {
  const std::size_t limit = read_bytes("/sys/fs/cgroup/memory.max");
  const std::size_t used = read_bytes("/sys/fs/cgroup/memory.current");
  if (limit == kUnlimited || used == kUnlimited) return kUnlimited;
  return limit > used ? limit - used : 0;
}

}  // namespace

std::size_t page_bytes() noexcept {
  static const auto bytes = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  return bytes;
}

Pages::Pages(std::size_t bytes, Kind kind) : bytes_(bytes) {
  if (bytes == 0) return;
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | (kind == kAddressesOnly ? MAP_NORESERVE : 0);
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (memory == MAP_FAILED) {
    throw OutOfMemory("the system refused " + std::to_string(bytes) + " bytes of memory");
  }
  data_ = static_cast<std::uint8_t*>(memory);
}

Pages::~Pages() {
  if (data_ != nullptr) ::munmap(data_, bytes_);
}

Pages::Pages(Pages&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

Pages& Pages::operator=(Pages&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

void Pages::release(std::size_t begin, std::size_t end) noexcept {
  // The system rounds the length up to whole pages, and would take what lies behind the end, too.
  const std::size_t page = page_bytes();
  begin = (begin + page - 1) / page * page;
  end = std::min(end, bytes_) / page * page;
  if (begin < end) ::madvise(data_ + begin, end - begin, MADV_DONTNEED);
}

std::size_t available_memory_bytes() { return std::min(system_available_bytes(), cgroup_available_bytes()); }

}  // namespace fastdqn
