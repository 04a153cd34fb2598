// How the core's kernels use somebody else's threads: they say what there is to do, in parts.
#pragma once

#include <cstddef>
#include <functional>

namespace fastdqn {

// `run` calls its second argument with 0 to its first - 1, perhaps side by side, and returns when all is done. As many
// parts as `threads` keep all of them busy.
struct Parallel {
  std::size_t threads;
  std::function<void(std::size_t, const std::function<void(std::size_t)>&)> run;
};

}  // namespace fastdqn
