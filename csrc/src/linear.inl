// Included once for each set of instructions, as winograd_torso.inl is. Needs besides kLinearRows and kLinearOutputs, as
// many rows and outputs as there are registers for, and reduced, the sum of a vector's numbers.

// out[Rows][Outputs] of as many rows and outputs.
template <int Rows, int Outputs>
void dot_products(const float* in, const float* weights, std::size_t inputs, const float* biases, float* out,
                  std::size_t out_step) {
  Vector sums[Rows][Outputs];
#pragma GCC unroll 16
  for (int row = 0; row < Rows; ++row)
#pragma GCC unroll 4
    for (int i = 0; i < Outputs; ++i) sums[row][i] = zero();
  for (std::size_t k = 0; k < inputs; k += kLanes) {
    Vector own[Outputs];
#pragma GCC unroll 4
    for (int i = 0; i < Outputs; ++i) own[i] = load(weights + i * inputs + k);
#pragma GCC unroll 16
    for (int row = 0; row < Rows; ++row) {
      const Vector left = load(in + row * inputs + k);
#pragma GCC unroll 4
      for (int i = 0; i < Outputs; ++i) sums[row][i] = multiply_add(left, own[i], sums[row][i]);
    }
  }
#pragma GCC unroll 16
  for (int row = 0; row < Rows; ++row)
#pragma GCC unroll 4
    for (int i = 0; i < Outputs; ++i)
      out[row * out_step + i] = reduced(sums[row][i]) + (biases ? biases[i] : 0.0f);
}

using DotProducts = void (*)(const float*, const float*, std::size_t, const float*, float*, std::size_t);

template <int Outputs, std::size_t... Is>
constexpr std::array<DotProducts, kLinearRows> dot_products_of(std::index_sequence<Is...>) {
  return {&dot_products<static_cast<int>(Is) + 1, Outputs>...};
}

inline void linear(const float* in, std::size_t rows, std::size_t inputs, const float* weights,
                   const float* biases, std::size_t outputs, float* out, const Parallel& parallel) {
  static constexpr auto kSeveral = dot_products_of<kLinearOutputs>(std::make_index_sequence<kLinearRows>());
  static constexpr auto kOne = dot_products_of<1>(std::make_index_sequence<kLinearRows>());
  const std::size_t blocks = (outputs + kLinearOutputs - 1) / kLinearOutputs;
  parallel.run(parallel.threads, [&](std::size_t part) {
    const std::size_t last = blocks * (part + 1) / parallel.threads;
    for (std::size_t block = blocks * part / parallel.threads; block < last; ++block) {
      const std::size_t first = block * kLinearOutputs,
                        count = outputs - first < kLinearOutputs ? outputs - first : kLinearOutputs;
      std::size_t left = (rows + kLinearRows - 1) / kLinearRows;
      for (std::size_t row = 0; row < rows; --left) {
        const std::size_t height = (rows - row + left - 1) / left;
        const float* from = in + row * inputs;
        float* to = out + row * outputs + first;
        if (count == kLinearOutputs)
          kSeveral[height - 1](from, weights + first * inputs, inputs, biases ? biases + first : nullptr, to,
                               outputs);
        else
          for (std::size_t i = 0; i < count; ++i)
            kOne[height - 1](from, weights + (first + i) * inputs, inputs,
                             biases ? biases + first + i : nullptr, to + i, outputs);
        row += height;
      }
    }
  });
}
