#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "check.hpp"
#include "fastdqn/detail/narrow_torso.hpp"
#include "noise.hpp"

using fastdqn::Bfloat16Bits;
using fastdqn::kNarrowFilters;
using fastdqn::kNarrowMaps;
using fastdqn::kNarrowPixels;
using fastdqn::kNarrowWeights;
using fastdqn::NarrowLayers;

namespace {

Bfloat16Bits rounded(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<Bfloat16Bits>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

double widened(Bfloat16Bits number) {
  const std::uint32_t bits = static_cast<std::uint32_t>(number) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

struct Network {
  std::vector<float> weights[3], biases[3];

  explicit Network(Noise& noise) {
    const double sizes[3] = {0.1 / 255, 0.2, 0.2};
    for (int i = 0; i < 3; ++i) {
      for (std::size_t n = 0; n < kNarrowWeights[i]; ++n) weights[i].push_back(noise(sizes[i]));
      for (std::size_t n = 0; n < kNarrowFilters[i]; ++n) biases[i].push_back(noise(0.1));
    }
  }

  NarrowLayers<const float> layers() const {
    return {{weights[0].data(), weights[1].data(), weights[2].data()},
            {biases[0].data(), biases[1].data(), biases[2].data()}};
  }
};

struct Shape {
  int in, channels, kernel, stride, out, filters;
};
constexpr Shape kShapes[3] = {{84, 4, 8, 4, 20, 8}, {20, 8, 4, 2, 9, 16}, {9, 16, 3, 1, 7, 16}};

// Calls visit(made, read, weight) for every product of a layer of one row.
template <class Visit>
void products(const Shape& s, const Visit& visit) {
  for (int y = 0; y < s.out; ++y)
    for (int x = 0; x < s.out; ++x)
      for (int f = 0; f < s.filters; ++f)
        for (int row = 0; row < s.kernel; ++row)
          for (int i = 0; i < s.kernel * s.channels; ++i)
            visit((y * s.out + x) * s.filters + f,
                  ((y * s.stride + row) * s.in + x * s.stride) * s.channels + i,
                  (f * s.kernel + row) * s.kernel * s.channels + i);
}

struct Rows {
  std::vector<Bfloat16Bits> pixels, maps[3];

  Rows(std::size_t rows, Noise& noise) : pixels(rows * kNarrowPixels) {
    for (Bfloat16Bits& number : pixels) number = rounded(std::nearbyint(noise(255.0)));
    for (int i = 0; i < 3; ++i) maps[i].assign(rows * kNarrowMaps[i] + 1, 7);  // and one that stays as it is
  }

  void fill(const Network& network) {
    Bfloat16Bits* const out[3] = {maps[0].data(), maps[1].data(), maps[2].data()};
    narrow_torso(pixels.data(), pixels.size() / kNarrowPixels, network.layers(), out);
  }
};

bool there_is_none() {
  if (!fastdqn::has_narrow_torso()) std::puts("  (this CPU has no AVX-512 with bfloat16: nothing to test)");
  return !fastdqn::has_narrow_torso();
}

}  // namespace

TEST(each_layer_is_its_convolution_of_the_map_below_after_its_relu) {
  if (there_is_none()) return;
  Noise noise;
  const std::size_t count = 3;
  const Network network(noise);
  Rows rows(count, noise);
  rows.fill(network);
  const std::vector<Bfloat16Bits>* below = &rows.pixels;
  for (int layer = 0; layer < 3; ++layer) {
    const Shape& s = kShapes[layer];
    const std::size_t in = below->size() / count, out = kNarrowMaps[layer];
    CHECK(rows.maps[layer].back() == 7);
    std::size_t let_through = 0;
    for (std::size_t row = 0; row < count; ++row) {
      std::vector<double> sums(out), sizes(out);
      products(s, [&](int made, int read, int weight) {
        const double product =
            widened((*below)[row * in + read]) * widened(rounded(network.weights[layer][weight]));
        sums[made] += product, sizes[made] += std::fabs(product);
      });
      for (std::size_t i = 0; i < out; ++i) {
        const double want = std::fmax(0.0, sums[i] + network.biases[layer][i % s.filters]);
        const double got = widened(rows.maps[layer][row * out + i]);
        CHECK(std::fabs(got - want) <=
              want / 256 + 1e-5 * sizes[i]);  // half a step of bfloat16, and float32's sums
        let_through += got > 0;
      }
    }
    CHECK(let_through > out * count / 10 && let_through < out * count * 9 / 10);
    rows.maps[layer].pop_back();
    below = &rows.maps[layer];
  }
}

TEST(two_networks_at_once_have_the_bits_of_each_alone) {
  if (there_is_none()) return;
  Noise noise;
  const Network networks[2] = {Network(noise), Network(noise)};
  Rows rows(2, noise);
  std::vector<Bfloat16Bits> features[2];
  for (auto& one : features) one.assign(2 * kNarrowMaps[2] + 1, 7);
  const NarrowLayers<const float> layers[2] = {networks[0].layers(), networks[1].layers()};
  Bfloat16Bits* const out[2] = {features[0].data(), features[1].data()};
  narrow_torsos(rows.pixels.data(), 2, layers, out);
  for (int i = 0; i < 2; ++i) {
    rows.fill(networks[i]);
    CHECK(features[i] == rows.maps[2]);
  }
  CHECK(features[0] != features[1]);
}

TEST(gradients_are_the_sums_over_rows_of_the_oracles) {
  if (there_is_none()) return;
  Noise noise;
  const std::size_t count = 2;
  const Network network(noise);
  Rows rows(count, noise);
  rows.fill(network);
  std::vector<Bfloat16Bits> above(count * kNarrowMaps[2]);
  for (Bfloat16Bits& number : above) number = rounded(noise(0.01));
  std::vector<float> weights[3], biases[3];
  for (int i = 0; i < 3; ++i)
    weights[i].assign(kNarrowWeights[i] + 1, 7), biases[i].assign(kNarrowFilters[i] + 1, 7);
  const Bfloat16Bits* const maps[3] = {rows.maps[0].data(), rows.maps[1].data(), rows.maps[2].data()};
  narrow_torso_backward(above.data(), rows.pixels.data(), count, network.layers(), maps,
                        {{weights[0].data(), weights[1].data(), weights[2].data()},
                         {biases[0].data(), biases[1].data(), biases[2].data()}});

  std::vector<double> gradient(above.size());
  for (std::size_t i = 0; i < above.size(); ++i) gradient[i] = widened(above[i]);
  for (int layer = 2; layer >= 0; --layer) {
    const Shape& s = kShapes[layer];
    const std::vector<Bfloat16Bits>& below = layer == 0 ? rows.pixels : rows.maps[layer - 1];
    const std::size_t in = layer == 0 ? kNarrowPixels : kNarrowMaps[layer - 1], out = kNarrowMaps[layer];
    std::vector<double> of_weights(kNarrowWeights[layer]), sizes(of_weights.size()), of_biases(s.filters),
        next(count * in);
    for (std::size_t row = 0; row < count; ++row) {
      for (std::size_t i = 0; i < out; ++i) {
        double& one = gradient[row * out + i];
        one = widened(rows.maps[layer][row * out + i]) > 0 ? widened(rounded(static_cast<float>(one))) : 0.0;
        of_biases[i % s.filters] += one;
      }
      products(s, [&](int made, int read, int weight) {
        const double one = gradient[row * out + made];
        of_weights[weight] += one * widened(below[row * in + read]);
        sizes[weight] += std::fabs(one * widened(below[row * in + read]));
        next[row * in + read] += one * widened(rounded(network.weights[layer][weight]));
      });
    }
    // Where a map's gradient lies between two numbers of bfloat16, float32 and double may take another of them.
    for (std::size_t i = 0; i < of_weights.size(); ++i)
      CHECK(std::fabs(weights[layer][i] - of_weights[i]) <= 2e-3 * sizes[i] + 1e-9);
    for (int i = 0; i < s.filters; ++i) CHECK(std::fabs(biases[layer][i] - of_biases[i]) <= 2e-4);
    CHECK(weights[layer].back() == 7 && biases[layer].back() == 7);
    gradient = next;
  }
}

TEST(a_nan_is_not_hidden_and_no_rows_are_nothing) {
  if (there_is_none()) return;
  Noise noise;
  Network network(noise);
  Rows none(0, noise), rows(1, noise);
  none.fill(network);
  CHECK(none.maps[0][0] == 7);
  network.weights[0][0] = std::nanf("");
  rows.fill(network);
  CHECK(std::isnan(widened(rows.maps[0][0])));
  CHECK(std::isnan(widened(rows.maps[2][0])));
}
