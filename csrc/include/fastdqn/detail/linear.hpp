// A fully connected layer in float32 for few rows, whose weights are read once, as they lie: no copy of them is arranged.
//
// Sums are in an order that depends on neither the rows beside one nor the number of threads.
//
// Complexity: O(rows * inputs * outputs). Threads: those of `Parallel`. Exceptions: none.
#pragma once

#include <cstddef>

#include "fastdqn/detail/parallel.hpp"

namespace fastdqn {

// Whether this CPU has what the function below is made of, AVX2 or AVX-512; on others it must not be called.
bool has_linear() noexcept;

// out = rows weights' + biases: [rows, outputs] of [rows, inputs] and [outputs, inputs]. `inputs` is a multiple of 16;
// `biases` may be null.
void linear(const float* in, std::size_t rows, std::size_t inputs, const float* weights, const float* biases,
            std::size_t outputs, float* out, const Parallel& parallel);

}  // namespace fastdqn
