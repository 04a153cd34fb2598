#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <thread>
#include <vector>

#include "check.hpp"
#include "fastdqn/detail/grey_levels.hpp"
#include "fastdqn/detail/winograd_torso.hpp"
#include "noise.hpp"

using fastdqn::kTorsoPixels;
using fastdqn::Parallel;
using fastdqn::torso_filters;
using fastdqn::torso_map;
using fastdqn::torso_weights;
using fastdqn::TorsoLayers;
using fastdqn::TorsoWidth;

namespace {

struct Network {
  TorsoWidth width;
  std::vector<float> weights[3], biases[3];

  Network(TorsoWidth of, Noise& noise) : width(of) {
    const double sizes[3] = {0.3, 0.1, 0.1};
    for (int i = 0; i < 3; ++i) {
      for (std::size_t n = 0; n < torso_weights(width, i); ++n) weights[i].push_back(noise(sizes[i]));
      for (std::size_t n = 0; n < torso_filters(width, i); ++n) biases[i].push_back(noise(0.1));
    }
  }

  TorsoLayers<const float> layers() const {
    return {{weights[0].data(), weights[1].data(), weights[2].data()},
            {biases[0].data(), biases[1].data(), biases[2].data()}};
  }
};

struct Shape {
  int in, channels, kernel, stride, out, filters;
};

Shape shape(TorsoWidth width, int layer) {
  const int in[3] = {84, 20, 9}, kernel[3] = {8, 4, 3}, stride[3] = {4, 2, 1}, out[3] = {20, 9, 7};
  return {in[layer],     layer == 0 ? 4 : static_cast<int>(torso_filters(width, layer - 1)),
          kernel[layer], stride[layer],
          out[layer],    static_cast<int>(torso_filters(width, layer))};
}

// Calls visit(made, read, weight) for every product of a layer of one row: maps are height, width, channel.
template <class Visit>
void products(const Shape& s, const Visit& visit) {
  for (int y = 0; y < s.out; ++y)
    for (int x = 0; x < s.out; ++x)
      for (int f = 0; f < s.filters; ++f)
        for (int c = 0; c < s.channels; ++c)
          for (int row = 0; row < s.kernel; ++row)
            for (int column = 0; column < s.kernel; ++column)
              visit((y * s.out + x) * s.filters + f,
                    ((y * s.stride + row) * s.in + x * s.stride + column) * s.channels + c,
                    ((f * s.channels + c) * s.kernel + row) * s.kernel + column);
}

Parallel on(std::size_t threads) {
  return {threads, [](std::size_t parts, const std::function<void(std::size_t)>& work) {
            std::vector<std::thread> all;
            for (std::size_t part = 0; part < parts; ++part) all.emplace_back([&work, part] { work(part); });
            for (std::thread& one : all) one.join();
          }};
}

constexpr float kUntouched = 7;

struct Rows {
  TorsoWidth width;
  std::size_t count;
  bool centered;
  std::vector<std::uint8_t> stacks;
  std::vector<float> levels, maps[3];  // each of the maps has one number more, that nobody writes

  Rows(TorsoWidth of, std::size_t rows, bool is_centered, Noise& noise)
      : width(of),
        count(rows),
        centered(is_centered),
        stacks(rows * kTorsoPixels),
        levels(rows * kTorsoPixels) {
    for (std::uint8_t& byte : stacks) byte = static_cast<std::uint8_t>(std::lround(127.5 + noise(127.5)));
    fastdqn::grey_levels(stacks.data(), rows, 84 * 84, centered, levels.data());
    for (float& level : levels) level /= 255;
    for (int i = 0; i < 3; ++i) maps[i].assign(rows * torso_map(width, i) + 1, kUntouched);
  }

  void fill(const Network& network, std::size_t threads) {
    float* const out[3] = {maps[0].data(), maps[1].data(), maps[2].data()};
    fastdqn::winograd_torso(width, stacks.data(), count, centered, network.layers(), out, on(threads));
  }

  const std::vector<float>& below(int layer) const { return layer == 0 ? levels : maps[layer - 1]; }
};

struct Gradients {
  std::vector<float> weights[3], biases[3];

  Gradients(const Network& network, const Rows& rows, const std::vector<float>& above, std::size_t threads) {
    for (int i = 0; i < 3; ++i) {
      weights[i].assign(network.weights[i].size() + 1, kUntouched);
      biases[i].assign(network.biases[i].size() + 1, kUntouched);
    }
    const TorsoLayers<float> out{{weights[0].data(), weights[1].data(), weights[2].data()},
                                 {biases[0].data(), biases[1].data(), biases[2].data()}};
    const float* const maps[3] = {rows.maps[0].data(), rows.maps[1].data(), rows.maps[2].data()};
    fastdqn::winograd_torso_backward(rows.width, above.data(), rows.stacks.data(), rows.count, rows.centered,
                                     network.layers(), maps, out, on(threads));
  }
};

// How far a sum may be from the exact one, as a share of its terms' sizes. A transform mixes what lies side by side, so
// that of a gradient it is a share of the largest of the layer's.
constexpr double kError = 2e-6;

void check_near(double got, double want, double size) {
  CHECK(std::fabs(got - want) <= kError * size + 1e-9);
}

bool there_is_none() {
  if (!fastdqn::has_winograd_torso()) std::puts("  (this CPU has no AVX2: nothing to test)");
  return !fastdqn::has_winograd_torso();
}

}  // namespace

TEST(each_layer_is_its_convolution_of_the_map_below_after_its_relu) {
  if (there_is_none()) return;
  Noise noise;
  for (const TorsoWidth width : {TorsoWidth::kFull, TorsoWidth::kHalf})
    for (const bool centered : {false, true}) {
      const Network network(width, noise);
      Rows rows(width, centered ? 1 : 5, centered, noise);
      rows.fill(network, 1);
      for (int layer = 0; layer < 3; ++layer) {
        const Shape s = shape(width, layer);
        const std::size_t in = rows.below(layer).size() / rows.count, out = torso_map(width, layer);
        CHECK(rows.maps[layer].back() == kUntouched);
        std::size_t let_through = 0;
        for (std::size_t row = 0; row < rows.count; ++row) {
          std::vector<double> sums(out), sizes(out);
          products(s, [&](int made, int read, int weight) {
            const double product =
                static_cast<double>(rows.below(layer)[row * in + read]) * network.weights[layer][weight];
            sums[made] += product, sizes[made] += std::fabs(product);
          });
          for (std::size_t i = 0; i < out; ++i) {
            const double want = std::fmax(0.0, sums[i] + network.biases[layer][i % s.filters]);
            check_near(rows.maps[layer][row * out + i], want, sizes[i] + 1);
            let_through += want > 0;
          }
        }
        CHECK(let_through > rows.count * out / 8 && let_through < rows.count * out * 7 / 8);
      }
    }
}

TEST(the_way_back_has_the_sums_of_all_products) {
  if (there_is_none()) return;
  Noise noise;
  for (const TorsoWidth width : {TorsoWidth::kFull, TorsoWidth::kHalf}) {
    const Network network(width, noise);
    Rows rows(width, 5, true, noise);
    rows.fill(network, 1);
    std::vector<float> above(rows.count * torso_map(width, 2));
    for (float& number : above) number = noise(1.0);
    const Gradients got(network, rows, above, 1);
    std::vector<double> made(above.begin(), above.end());
    std::vector<double> sizes_made(made.size());
    for (std::size_t i = 0; i < made.size(); ++i) sizes_made[i] = std::fabs(made[i]);
    for (int layer = 2; layer >= 0; --layer) {
      const Shape s = shape(width, layer);
      const std::size_t in = rows.below(layer).size() / rows.count, out = torso_map(width, layer);
      std::vector<double> weights(network.weights[layer].size()), sizes(weights.size());
      std::vector<double> biases(s.filters), bias_sizes(s.filters), read(rows.count * in),
          read_sizes(read.size());
      for (std::size_t row = 0; row < rows.count; ++row) {
        for (std::size_t i = 0; i < out; ++i) {
          const std::size_t at = row * out + i;
          if (!(rows.maps[layer][at] > 0)) made[at] = sizes_made[at] = 0;
          biases[i % s.filters] += made[at], bias_sizes[i % s.filters] += sizes_made[at];
        }
        products(s, [&](int to, int from, int weight) {
          const double below = rows.below(layer)[row * in + from], factor = network.weights[layer][weight];
          weights[weight] += below * made[row * out + to];
          sizes[weight] += std::fabs(below) * sizes_made[row * out + to];
          read[row * in + from] += factor * made[row * out + to];
          read_sizes[row * in + from] += std::fabs(factor) * sizes_made[row * out + to];
        });
      }
      const double largest = *std::max_element(sizes.begin(), sizes.end());
      for (std::size_t i = 0; i < weights.size(); ++i) check_near(got.weights[layer][i], weights[i], largest);
      for (int i = 0; i < s.filters; ++i) check_near(got.biases[layer][i], biases[i], bias_sizes[i]);
      CHECK(got.weights[layer].back() == kUntouched);
      CHECK(got.biases[layer].back() == kUntouched);
      if (layer > 0) made.assign(read.begin(), read.end()), sizes_made = read_sizes;
    }
  }
}

TEST(rows_and_threads_change_no_bit_of_a_row_and_threads_little_of_a_gradient) {
  if (there_is_none()) return;
  Noise noise;
  const TorsoWidth width = TorsoWidth::kHalf;
  const Network network(width, noise);
  Rows rows(width, 13, true, noise);
  rows.fill(network, 1);
  const std::vector<float> alone[3] = {rows.maps[0], rows.maps[1], rows.maps[2]};
  std::vector<float> above(rows.count * torso_map(width, 2));
  for (float& number : above) number = noise(1.0);
  const Gradients of_one(network, rows, above, 1);
  for (const std::size_t threads : {2, 3, 16}) {
    for (int i = 0; i < 3; ++i) rows.maps[i].assign(rows.maps[i].size(), kUntouched);
    rows.fill(network, threads);
    for (int i = 0; i < 3; ++i) CHECK(rows.maps[i] == alone[i]);
    const Gradients of_several(network, rows, above, threads), again(network, rows, above, threads);
    for (int i = 0; i < 3; ++i) {
      CHECK(of_several.weights[i] == again.weights[i]);
      double largest = 0, difference = 0;
      for (std::size_t n = 0; n < of_one.weights[i].size(); ++n) {
        largest = std::fmax(largest, std::fabs(of_one.weights[i][n]));
        difference = std::fmax(difference, std::fabs(of_one.weights[i][n] - of_several.weights[i][n]));
      }
      CHECK(difference < 1e-5 * largest);
    }
  }
  Rows last(width, 1, true, noise);
  std::copy(rows.stacks.end() - kTorsoPixels, rows.stacks.end(), last.stacks.begin());
  last.fill(network, 2);
  for (int i = 0; i < 3; ++i)
    for (std::size_t n = 0; n < torso_map(width, i); ++n)
      CHECK(last.maps[i][n] == alone[i][12 * torso_map(width, i) + n]);
}

TEST(no_rows_make_nothing_and_gradients_of_zero) {
  if (there_is_none()) return;
  Noise noise;
  const Network network(TorsoWidth::kHalf, noise);
  Rows rows(TorsoWidth::kHalf, 0, false, noise);
  rows.fill(network, 2);
  for (const std::vector<float>& map : rows.maps) CHECK(map.front() == kUntouched);
  const Gradients got(network, rows, {}, 2);
  for (int i = 0; i < 3; ++i) CHECK(got.weights[i].front() == 0 && got.biases[i].front() == 0);
}

TEST(a_weight_that_is_not_a_number_is_not_hidden) {
  if (there_is_none()) return;
  Noise noise;
  Network network(TorsoWidth::kHalf, noise);
  Rows rows(TorsoWidth::kHalf, 1, false, noise);
  network.weights[2][0] = std::numeric_limits<float>::quiet_NaN();
  rows.fill(network, 1);
  CHECK(std::isnan(rows.maps[2][0]));
  rows.fill(network, 1);
  const Gradients got(network, rows, std::vector<float>(torso_map(TorsoWidth::kHalf, 2), 1.0f), 1);
  CHECK(std::isnan(got.weights[1][0]));
}
