// Numbers for kernels to compute with, the same in each run.
#pragma once

#include <cstdint>

class Noise {
 public:
  // Between -size and size.
  float operator()(double size) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<float>((static_cast<double>(state_ >> 40) / (1 << 23) - 1.0) * size);
  }

 private:
  std::uint64_t state_ = 1;
};
