// The three convolutions of Mnih et al. 2015 at a quarter of their width, 8, 16 and 16 filters with their ReLUs, in
// bfloat16 on a CPU with AVX-512's instructions for it: forward, for two networks at once, and backward.
//
// Libraries are made for many channels: of so few, their kernels leave most of a vector idle, above all backward.
// Products are of bfloat16 and sums in float32, in an order that is fixed: the same bits whatever else there is in
// a batch, whether a network is alone or one of two, and with any number of threads.
//
// Complexity: O(rows). Threads: one, and any number of them may call it. Exceptions: none.
#pragma once

#include <cstddef>

#include "fastdqn/detail/grey_levels.hpp"

namespace fastdqn {

// Numbers of a row: pixels (84 x 84 x 4) and the maps that the layers make of them (20 x 20 x 8, 9 x 9 x 16,
// 7 x 7 x 16), all height, width, channel.
constexpr std::size_t kNarrowPixels = 84 * 84 * 4, kNarrowMaps[3] = {20 * 20 * 8, 9 * 9 * 16, 7 * 7 * 16};
// Numbers of a layer's weights: filter, height, width, channel; and its filters, each of which has a bias.
constexpr std::size_t kNarrowWeights[3] = {8 * 8 * 8 * 4, 16 * 4 * 4 * 8, 16 * 3 * 3 * 16};
constexpr std::size_t kNarrowFilters[3] = {8, 16, 16};

// Weights or their gradients, which may then be written.
template <class Number>
struct NarrowLayers {
  Number* weights[3];
  Number* biases[3];
};

// Whether this CPU has what the functions below are made of; on others they must not be called.
bool has_narrow_torso() noexcept;

// Fills `maps` with what each layer makes of `pixels`, after its ReLU; the last are the features. `weights` are rounded
// to bfloat16, biases are not.
void narrow_torso(const Bfloat16Bits* pixels, std::size_t rows, const NarrowLayers<const float>& layers,
                  Bfloat16Bits* const maps[3]);

// The same features of two networks, to the bit; their other maps are not kept.
void narrow_torsos(const Bfloat16Bits* pixels, std::size_t rows, const NarrowLayers<const float> (&layers)[2],
                   Bfloat16Bits* const (&features)[2]);

// Fills `gradients` from those of the features, and from what narrow_torso read and made. Maps' gradients are
// rounded to bfloat16; sums over the rows are in float32.
void narrow_torso_backward(const Bfloat16Bits* features_gradient, const Bfloat16Bits* pixels,
                           std::size_t rows, const NarrowLayers<const float>& layers,
                           const Bfloat16Bits* const maps[3], const NarrowLayers<float>& gradients);

}  // namespace fastdqn
