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

std::size_t system_available_bytes(const std::string& path) {
  std::ifstream meminfo(path);
  for (std::string line; std::getline(meminfo, line);) {
    std::istringstream words(line);
    std::string name;
    std::size_t kibibytes = 0;
    if (words >> name >> kibibytes && name == "MemAvailable:") return kibibytes * 1024;
  }
  return kUnlimited;
}

// A number of bytes in a file, or kUnlimited where it is absent or says "max".
std::size_t read_bytes(const std::string& path) {
  std::ifstream file(path);
  std::size_t bytes = 0;
  return file >> bytes ? bytes : kUnlimited;
}

// A number in a file of lines "NAME NUMBER", or 0.
std::size_t read_field(const std::string& path, const std::string& field) {
  std::ifstream file(path);
  std::string name;
  for (std::size_t number = 0; file >> name >> number;) {
    if (name == field) return number;
  }
  return 0;
}

// The files of a memory cgroup, which the two versions of cgroups name differently.
struct CgroupFiles {
  const char* mount;
  const char* limit;
  const char* used;
  const char* idle;  // a field of memory.stat: pages of files that nobody has used of late
};
constexpr CgroupFiles kVersion2{"", "/memory.max", "/memory.current", "inactive_file"};
constexpr CgroupFiles kVersion1{"/memory", "/memory.limit_in_bytes", "/memory.usage_in_bytes",
                                "total_inactive_file"};

// What one cgroup leaves. Idle pages of files count as free: the system takes them back before it kills.
std::size_t left_in(const std::string& folder, const CgroupFiles& files) {
  const std::size_t limit = read_bytes(folder + files.limit);
  const std::size_t used = read_bytes(folder + files.used);
  if (limit == kUnlimited || used == kUnlimited) return kUnlimited;
  const std::size_t held = used - std::min(used, read_field(folder + "/memory.stat", files.idle));
  return limit > held ? limit - held : 0;
}

// What the memory cgroups of a process leave, its own and those above.
std::size_t cgroup_available_bytes(const std::string& membership, const std::string& mounts) {
  std::size_t least = kUnlimited;
  std::ifstream lines(membership);
  for (std::string line; std::getline(lines, line);) {  // "ID:CONTROLLER,CONTROLLER:PATH"
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool newer = controllers == ",,";
    if (!newer && controllers.find(",memory,") == std::string::npos) continue;
    const CgroupFiles& files = newer ? kVersion2 : kVersion1;
    // Each one above limits, too. Inside a container the path may be the host's: its last step is the root.
    std::string path = line.substr(second + 1);
    while (true) {
      while (!path.empty() && path.back() == '/') path.pop_back();
      least = std::min(least, left_in(mounts + files.mount + path, files));
      if (path.empty()) break;
      const std::size_t parent = path.rfind('/');
      path.resize(parent == std::string::npos ? 0 : parent);
    }
  }
  return least;
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

std::size_t available_memory_bytes(const MemoryFiles& files) {
  return std::min(system_available_bytes(files.meminfo),
                  cgroup_available_bytes(files.membership, files.cgroups));
}

}  // namespace fastdqn
