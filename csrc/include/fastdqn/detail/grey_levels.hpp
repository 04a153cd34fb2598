// Stacks of frames as a network on a CPU reads them: float32 or bfloat16, the stack's frames innermost, centred if
// wanted.
//
// What a compiler makes of the same tensor operations takes five to ten times as long: it sums bytes one by one.
//
// Complexity: O(pixels). Threads: one, and any number of them may call it. Exceptions: none.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastdqn {

constexpr std::size_t kStack = 4;

// A bfloat16 number as its bits: the upper half of a float's. All that grey_levels writes are whole numbers of up
// to eight bits, which it holds exactly.
using Bfloat16Bits = std::uint16_t;

// `stacks`: rows x kStack x pixels bytes; `out`: rows x pixels x kStack numbers, which does not overlap it.
// Centred, from each row its mean is subtracted, rounded to a whole grey level, halves to even; pixels > 0.
void grey_levels(const std::uint8_t* stacks, std::size_t rows, std::size_t pixels, bool centered, float* out);
void grey_levels(const std::uint8_t* stacks, std::size_t rows, std::size_t pixels, bool centered,
                 Bfloat16Bits* out);

// What is subtracted from a row: the mean of `count` bytes, one or more.
float mean_grey_level(const std::uint8_t* bytes, std::size_t count);

}  // namespace fastdqn
