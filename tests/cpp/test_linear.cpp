#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

#include "check.hpp"
#include "fastdqn/detail/linear.hpp"

using fastdqn::Parallel;

namespace {

std::vector<float> numbers(std::size_t count, std::uint64_t state) {
  std::vector<float> made(count);
  for (float& number : made) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    number = static_cast<float>(static_cast<double>(state >> 40) / (1 << 23) - 1.0);
  }
  return made;
}

Parallel in(std::size_t threads) {  // the parts in another order than usual
  return {threads, [](std::size_t parts, const std::function<void(std::size_t)>& work) {
            for (std::size_t part = parts; part-- > 0;) work(part);
          }};
}

constexpr float kUntouched = 7;

}  // namespace

TEST(each_output_is_the_sum_of_its_products_whatever_the_rows_and_the_threads) {
  if (!fastdqn::has_linear()) {
    std::puts("  (this CPU has no AVX2: nothing to test)");
    return;
  }
  const std::size_t sizes[][3] = {{1, 16, 1},  {3, 32, 5},     {6, 48, 4},
                                  {7, 512, 6}, {13, 784, 130}, {0, 16, 3}};
  for (const auto& [rows, inputs, outputs] : sizes)
    for (const bool with_biases : {false, true}) {
      const std::vector<float> read = numbers(rows * inputs, 1), weights = numbers(outputs * inputs, 2),
                               biases = numbers(outputs, 3);
      std::vector<float> first;
      for (const std::size_t threads : {1, 2, 5, 64}) {
        std::vector<float> made(rows * outputs + 1, kUntouched);
        fastdqn::linear(read.data(), rows, inputs, weights.data(), with_biases ? biases.data() : nullptr,
                        outputs, made.data(), in(threads));
        CHECK(made.back() == kUntouched);
        if (threads == 1) first = made;
        CHECK(made == first);
      }
      for (std::size_t row = 0; row < rows; ++row)
        for (std::size_t out = 0; out < outputs; ++out) {
          double want = with_biases ? biases[out] : 0.0, size = 1.0;
          for (std::size_t i = 0; i < inputs; ++i) {
            const double product = static_cast<double>(read[row * inputs + i]) * weights[out * inputs + i];
            want += product, size += std::fabs(product);
          }
          CHECK(std::fabs(first[row * outputs + out] - want) <= 1e-6 * size);
        }
      std::vector<float> alone(outputs);
      for (std::size_t row = 0; row < rows; ++row) {
        fastdqn::linear(read.data() + row * inputs, 1, inputs, weights.data(),
                        with_biases ? biases.data() : nullptr, outputs, alone.data(), in(1));
        for (std::size_t out = 0; out < outputs; ++out) CHECK(alone[out] == first[row * outputs + out]);
      }
    }
}
