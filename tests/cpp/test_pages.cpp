#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>

#include "check.hpp"
#include "fastdqn/detail/pages.hpp"

using fastdqn::Pages;

namespace {

constexpr std::size_t kUnlimited = std::numeric_limits<std::size_t>::max();

// The system's files as a test writes them, in a folder of its own.
class System {
 public:
  explicit System(const std::string& membership) {
    root_ = (std::filesystem::temp_directory_path() / "fastdqn-XXXXXX").string();
    CHECK(::mkdtemp(root_.data()) != nullptr);
    write("membership", membership);
  }
  ~System() { std::filesystem::remove_all(root_); }
  System(const System&) = delete;
  System& operator=(const System&) = delete;

  void write(const std::string& name, const std::string& text) const {
    const std::filesystem::path path = std::filesystem::path(root_) / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }

  std::size_t available() const {
    return fastdqn::available_memory_bytes({root_ + "/meminfo", root_ + "/membership", root_ + "/mounts"});
  }

 private:
  std::string root_;
};

}  // namespace

TEST(pages_are_zero_and_writeable) {
  const Pages pages(100000);
  CHECK_EQ(pages.size(), 100000u);
  for (std::size_t i = 0; i < pages.size(); ++i) CHECK_EQ(int{pages.data()[i]}, 0);
  pages.data()[99999] = 5;
}

TEST(moving_hands_the_memory_over) {
  Pages first(4096);
  std::uint8_t* memory = first.data();
  Pages second(std::move(first));
  CHECK(first.data() == nullptr);
  CHECK(second.data() == memory);
  Pages third;
  third = std::move(second);
  CHECK(third.data() == memory);
}

TEST(nothing_can_be_reserved) { CHECK(Pages(0).data() == nullptr); }

TEST(an_impossible_size_is_out_of_memory) {
  CHECK_THROWS(fastdqn::OutOfMemory, "bytes of memory", Pages(std::numeric_limits<std::size_t>::max() / 2));
}

TEST(this_system_says_what_is_available) {
  const std::size_t available = fastdqn::available_memory_bytes();
  CHECK(available > 1000000);
  CHECK(available < kUnlimited);
}

TEST(the_less_of_the_machines_memory_and_its_groups) {
  const System system("0::/\n");
  system.write("meminfo", "MemTotal:       9000 kB\nMemFree:  1 kB\nMemAvailable:   3 kB\nBuffers: 7 kB\n");
  CHECK_EQ(system.available(), 3072u);
  system.write("mounts/memory.max", "2000\n");
  system.write("mounts/memory.current", "500\n");
  CHECK_EQ(system.available(), 1500u);
  system.write("mounts/memory.max", "200000\n");
  CHECK_EQ(system.available(), 3072u);
}

TEST(without_cgroups_nothing_is_limited) {
  CHECK_EQ(System("").available(), kUnlimited);
  CHECK_EQ(System("0::/\n").available(), kUnlimited);
  CHECK_EQ(System("no line of that kind\n1:memory\n").available(), kUnlimited);
  CHECK_EQ(fastdqn::available_memory_bytes({"/no/such", "/no/such", "/no/such"}), kUnlimited);
}

TEST(a_container_has_its_limit_at_the_root) {
  const System groups("0::/\n");
  groups.write("mounts/memory.max", "1000\n");
  groups.write("mounts/memory.current", "400\n");
  CHECK_EQ(groups.available(), 600u);
  groups.write("mounts/memory.stat", "anon 100\nfile 300\ninactive_file 250\nactive_file 50\n");
  CHECK_EQ(groups.available(), 850u);  // pages of files that nobody uses can be had
  groups.write("mounts/memory.max", "max\n");
  CHECK_EQ(groups.available(), kUnlimited);
  groups.write("mounts/memory.max", "100\n");
  CHECK_EQ(groups.available(), 0u);
}

TEST(each_group_above_limits_too) {
  const System groups("0::/jobs/7/step\n");
  groups.write("mounts/jobs/7/step/memory.max", "max\n");
  groups.write("mounts/jobs/7/step/memory.current", "10\n");
  groups.write("mounts/jobs/7/memory.max", "500\n");
  groups.write("mounts/jobs/7/memory.current", "100\n");
  groups.write("mounts/jobs/memory.max", "5000\n");
  groups.write("mounts/jobs/memory.current", "4900\n");
  CHECK_EQ(groups.available(), 100u);
  groups.write("mounts/jobs/memory.current", "200\n");
  CHECK_EQ(groups.available(), 400u);
}

TEST(the_first_version_names_its_files_otherwise) {
  const System groups("5:cpu,cpuacct:/jobs/7\n4:hugetlb,memory:/jobs/7\n0::/\n");
  groups.write("mounts/memory/jobs/7/memory.limit_in_bytes", "1000\n");
  groups.write("mounts/memory/jobs/7/memory.usage_in_bytes", "700\n");
  groups.write("mounts/memory/jobs/7/memory.stat", "inactive_file 1\ntotal_inactive_file 200\n");
  groups.write("mounts/memory/memory.limit_in_bytes", "9223372036854771712\n");
  groups.write("mounts/memory/memory.usage_in_bytes", "800\n");
  CHECK_EQ(groups.available(), 500u);
}

TEST(a_path_of_the_hosts_ends_at_the_root_of_a_container) {
  const System groups("4:memory:/docker/abc\n");
  groups.write("mounts/memory/memory.limit_in_bytes", "1000\n");
  groups.write("mounts/memory/memory.usage_in_bytes", "100\n");
  CHECK_EQ(groups.available(), 900u);
}
