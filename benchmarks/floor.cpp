// The floor of benchmarks/replay.py: memcpy of the frames that a sample or an add must move, no more.
#include <sys/mman.h>

#include <cstdint>
#include <cstring>

extern "C" {

// A store of `bytes` bytes, every page of it there; the pages are the replay's kind (anonymous, private).
std::uint8_t* make_store(std::size_t bytes) {
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  std::memset(memory, 1, bytes);
  return static_cast<std::uint8_t*>(memory);
}

// Copies `count` runs of `run` bytes, which begin at the offsets `from`, one after another to `out`.
void gather(const std::uint8_t* store, const std::int64_t* from, std::int64_t count, std::int64_t run,
            std::uint8_t* out) {
  for (std::int64_t i = 0; i < count; ++i)
    std::memcpy(out + i * run, store + from[i], static_cast<std::size_t>(run));
}

// The same with two runs a row, the second one frame on, to two outputs.
void gather_pairs(const std::uint8_t* store, const std::int64_t* from, std::int64_t count, std::int64_t run,
                  std::int64_t frame, std::uint8_t* out, std::uint8_t* next_out) {
  for (std::int64_t i = 0; i < count; ++i) {
    std::memcpy(out + i * run, store + from[i], static_cast<std::size_t>(run));
    std::memcpy(next_out + i * run, store + from[i] + frame, static_cast<std::size_t>(run));
  }
}

// Copies the newest frame of each of `count` stacks of four to the offsets `to`.
void scatter(const std::uint8_t* stacks, const std::int64_t* to, std::int64_t count, std::int64_t frame,
             std::uint8_t* store) {
  for (std::int64_t i = 0; i < count; ++i) {
    std::memcpy(store + to[i], stacks + (i * 4 + 3) * frame, static_cast<std::size_t>(frame));
  }
}
}
