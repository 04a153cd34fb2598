// The three convolutions of Mnih et al. 2015 with their ReLUs, of 32, 64 and 64 filters or of half as many, in float32 by
// minimal filtering (Winograd 1980; Lavin and Gray 2016): forward and backward, with two fifths of the multiplications.
//
// A kernel of stride s is one of stride 1 over blocks of s x s pixels, whose numbers count as channels: 8x8 by 4 and
// 4x4 by 2 become 2x2. Of each layer m x m outputs are computed at once from n x n blocks, n = m + r - 1, by n x n
// products of matrices instead of m x m x r x r. Sums are in float32. What a row's features are does not depend on the
// rows beside it or on the number of threads. The weights' gradients are summed over each thread's rows, then over the
// threads: their last bits depend on how many there are.
//
// Complexity: O(rows). Threads: those of `Parallel`; any number of threads may call it, each of which keeps up to 256 MiB
// that it needed. Exceptions: std::bad_alloc.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fastdqn/detail/parallel.hpp"

namespace fastdqn {

// How a layer's filters are chosen: Nature's, or half as many.
enum class TorsoWidth { kFull, kHalf };

// Bytes of a row, four frames of 84 x 84, and numbers of its maps: 20 x 20, 9 x 9 and 7 x 7 of as many channels as
// there are filters, height, width, channel.
constexpr std::size_t kTorsoPixels = 4 * 84 * 84;
constexpr std::size_t kTorsoMapSize[3] = {20 * 20, 9 * 9, 7 * 7};
constexpr std::size_t torso_filters(TorsoWidth width, int layer) {
  return (layer == 0 ? 32 : 64) / (width == TorsoWidth::kFull ? 1 : 2);
}
constexpr std::size_t torso_map(TorsoWidth width, int layer) {
  return kTorsoMapSize[layer] * torso_filters(width, layer);
}
// Numbers of a layer's weights: filter, channel, height, width.
constexpr std::size_t torso_weights(TorsoWidth width, int layer) {
  return torso_filters(width, layer) *
         (layer == 0 ? 4 * 8 * 8 : torso_filters(width, layer - 1) * (layer == 1 ? 4 * 4 : 3 * 3));
}

// Weights or their gradients, which may then be written.
template <class Number>
struct TorsoLayers {
  Number* weights[3];
  Number* biases[3];
};

// Whether this CPU has what the functions below are made of, AVX2 or AVX-512; on others they must not be called.
bool has_winograd_torso() noexcept;

// Fills `maps` with what each layer makes of `stacks`, after its ReLU; the last are the features. The first reads 255ths
// of what grey_levels makes of them.
void winograd_torso(TorsoWidth width, const std::uint8_t* stacks, std::size_t rows, bool centered,
                    const TorsoLayers<const float>& layers, float* const maps[3], const Parallel& parallel);

// Fills `gradients` from those of the features, and from what winograd_torso read and made.
void winograd_torso_backward(TorsoWidth width, const float* features_gradient, const std::uint8_t* stacks,
                             std::size_t rows, bool centered, const TorsoLayers<const float>& layers,
                             const float* const maps[3], const TorsoLayers<float>& gradients,
                             const Parallel& parallel);

}  // namespace fastdqn
