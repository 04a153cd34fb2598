// Included once for each set of instructions, inside a namespace that has Vector (kLanes floats), zero, set, load,
// store, add, subtract, multiply, multiply_add(a, b, c) = a * b + c, positive_part, kept_where_positive(value, map),
// widen16, which stores 16 bytes less a number, and kMostRows, how many rows of two vectors of sums there are registers
// for.

// The transforms in one dimension, of m outputs from n = m + r - 1 inputs and r weights:
//   outputs = kOutput (kWeights weights * kInput inputs), the product number by number.
// They follow from polynomials at the points 0, 1, -1, 2, -1/2 and infinity, as many of them as n. These points'
// rounding errors are about those of plain sums (tests/algorithm/test_winograd.py has bounds).
struct Outputs4Kernel2 {
  static constexpr int m = 4, r = 2, n = 5;
  static constexpr float kOutput[m][n] = {
      {1, 1, 1, 1, 0}, {0, 1, -1, 2, 0}, {0, 1, 1, 4, 0}, {0, 1, -1, 8, 1}};
  static constexpr float kWeights[n][r] = {
      {1.0f / 2, 0}, {-1.0f / 2, -1.0f / 2}, {-1.0f / 6, 1.0f / 6}, {1.0f / 6, 1.0f / 3}, {0, 1}};
  static constexpr float kInput[n][n] = {
      {2, -1, -2, 1, 0}, {0, -2, -1, 1, 0}, {0, 2, -3, 1, 0}, {0, -1, 0, 1, 0}, {0, 2, -1, -2, 1}};
};
struct Outputs3Kernel2 {
  static constexpr int m = 3, r = 2, n = 4;
  static constexpr float kOutput[m][n] = {{1, 1, 1, 0}, {0, 1, -1, 0}, {0, 1, 1, 1}};
  static constexpr float kWeights[n][r] = {{-1, 0}, {1.0f / 2, 1.0f / 2}, {1.0f / 2, -1.0f / 2}, {0, 1}};
  static constexpr float kInput[n][n] = {{-1, 0, 1, 0}, {0, 1, 1, 0}, {0, -1, 1, 0}, {0, -1, 0, 1}};
};
struct Outputs4Kernel3 {
  static constexpr int m = 4, r = 3, n = 6;
  static constexpr float kOutput[m][n] = {{1, 1, 1, 1, 1, 0},
                                          {0, 1, -1, 2, -1.0f / 2, 0},
                                          {0, 1, 1, 4, 1.0f / 4, 0},
                                          {0, 1, -1, 8, -1.0f / 8, 1}};
  static constexpr float kWeights[n][r] = {{1, 0, 0},
                                           {-1.0f / 3, -1.0f / 3, -1.0f / 3},
                                           {1.0f / 3, -1.0f / 3, 1.0f / 3},
                                           {1.0f / 15, 2.0f / 15, 4.0f / 15},
                                           {-16.0f / 15, 8.0f / 15, -4.0f / 15},
                                           {0, 0, 1}};
  static constexpr float kInput[n][n] = {{1, 1.5f, -2, -1.5f, 1, 0}, {0, -1, -2.5f, -0.5f, 1, 0},
                                         {0, 1, 0.5f, -2.5f, 1, 0},  {0, -0.5f, -1, 0.5f, 1, 0},
                                         {0, 2, -1, -2, 1, 0},       {0, 1, 1.5f, -2, -1.5f, 1}};
};

// A matrix to multiply by, or its transpose: At<Row, Column>.
template <class T>
struct InputTransform {
  static constexpr int rows = T::n, columns = T::n;
  static constexpr float at(int row, int column) { return T::kInput[row][column]; }
};
template <class T>
struct OutputTransform {
  static constexpr int rows = T::m, columns = T::n;
  static constexpr float at(int row, int column) { return T::kOutput[row][column]; }
};
template <class T>
struct WeightTransform {
  static constexpr int rows = T::n, columns = T::r;
  static constexpr float at(int row, int column) { return T::kWeights[row][column]; }
};
template <class Matrix>
struct Transposed {
  static constexpr int rows = Matrix::columns, columns = Matrix::rows;
  static constexpr float at(int row, int column) { return Matrix::at(column, row); }
};

// The sum of a matrix' row times numbers that lie `Step` apart; what is zero is left out when this is compiled.
template <class Matrix, int Row, int Step, int Column = 0, bool Empty = true>
FASTDQN_INLINE Vector combined(const Vector* numbers, Vector sum) {
  if constexpr (Column == Matrix::columns) {
    return sum;
  } else {
    constexpr float factor = Matrix::at(Row, Column);
    constexpr bool empty = Empty && factor == 0;
    if constexpr (factor == 0) {
    } else if constexpr (Empty) {
      sum = factor == 1 ? numbers[Column * Step] : multiply(set(factor), numbers[Column * Step]);
    } else if constexpr (factor == 1) {
      sum = add(sum, numbers[Column * Step]);
    } else if constexpr (factor == -1) {
      sum = subtract(sum, numbers[Column * Step]);
    } else {
      sum = multiply_add(set(factor), numbers[Column * Step], sum);
    }
    return combined<Matrix, Row, Step, Column + 1, empty>(numbers, sum);
  }
}

// out = Matrix in, of `Columns` columns.
template <class Matrix, int Columns, std::size_t... Is>
FASTDQN_INLINE void multiply_left(const Vector* in, Vector* out, std::index_sequence<Is...>) {
  ((out[Is] = combined<Matrix, static_cast<int>(Is) / Columns, Columns>(in + Is % Columns, zero())), ...);
}

// out = in Matrix', of `Rows` rows.
template <class Matrix, int Rows, std::size_t... Is>
FASTDQN_INLINE void multiply_right(const Vector* in, Vector* out, std::index_sequence<Is...>) {
  ((out[Is] = combined<Matrix, static_cast<int>(Is) % Matrix::rows, 1>(
        in + static_cast<int>(Is) / Matrix::rows * Matrix::columns, zero())),
   ...);
}

// out = Matrix in Matrix'.
template <class Matrix>
FASTDQN_INLINE void transform(const Vector* in, Vector* out) {
  Vector half[Matrix::rows * Matrix::columns];
  multiply_left<Matrix, Matrix::columns>(in, half,
                                         std::make_index_sequence<Matrix::rows * Matrix::columns>());
  multiply_right<Matrix, Matrix::rows>(half, out, std::make_index_sequence<Matrix::rows * Matrix::rows>());
}

// sums[Rows][2 or 1 vectors] (+)= a b: a[row][k] at a + row * RowStep + k * KStep, b[k] at b + k * BStep.
template <int Rows, int Width, int RowStep, int KStep, int BStep, int SumStep, bool Adds>
void product(const float* __restrict a, const float* __restrict b, float* __restrict sums, int depth) {
  Vector own[Rows][Width];
#pragma GCC unroll 16
  for (int row = 0; row < Rows; ++row)
#pragma GCC unroll 2
    for (int i = 0; i < Width; ++i) own[row][i] = Adds ? load(sums + row * SumStep + i * kLanes) : zero();
#pragma GCC unroll 2
  for (int k = 0; k < depth; ++k) {
    Vector right[Width];
#pragma GCC unroll 2
    for (int i = 0; i < Width; ++i) right[i] = load(b + i * kLanes);
#pragma GCC unroll 16
    for (int row = 0; row < Rows; ++row) {
      const Vector left = set(a[row * RowStep]);
#pragma GCC unroll 2
      for (int i = 0; i < Width; ++i) own[row][i] = multiply_add(left, right[i], own[row][i]);
    }
    a += KStep;
    b += BStep;
  }
#pragma GCC unroll 16
  for (int row = 0; row < Rows; ++row)
#pragma GCC unroll 2
    for (int i = 0; i < Width; ++i) store(sums + row * SumStep + i * kLanes, own[row][i]);
}

// All of it, `Rows`, 2 `Rows`, ... or `Most` times `Rows` rows and Columns columns, in blocks about as high as each other.
template <int Rows, int Most, int Columns, int RowStep, int KStep, int BStep, int SumStep, bool Adds>
struct Product {
  static constexpr int kWidth = Columns >= 2 * kLanes ? 2 : 1;
  using Block = void (*)(const float*, const float*, float*, int);

  // The height of the next of `left` blocks, which `rows` are left for.
  static constexpr int height(int rows, int left) { return (rows + left - 1) / left; }
  static constexpr int count(int rows) { return (rows + kMostRows - 1) / kMostRows; }

  static constexpr bool occurs(int wanted) {
    for (int times = 1; times <= Most; ++times)
      for (int rows = Rows * times, left = count(rows); left > 0; --left) {
        if (height(rows, left) == wanted) return true;
        rows -= height(rows, left);
      }
    return false;
  }
  template <int Height>
  static constexpr Block block() {
    if constexpr (occurs(Height))
      return &product<Height, kWidth, RowStep, KStep, BStep, SumStep, Adds>;
    else
      return nullptr;
  }
  template <std::size_t... Is>
  static constexpr std::array<Block, kMostRows> blocks(std::index_sequence<Is...>) {
    return {block<static_cast<int>(Is) + 1>()...};
  }
  static constexpr std::array<Block, kMostRows> kBlocks = blocks(std::make_index_sequence<kMostRows>());

  static void run(const float* a, const float* b, float* sums, int times, int depth) {
    const int rows = Rows * times;
    for (int row = 0, left = count(rows); left > 0; --left) {
      const int high = height(rows - row, left);
      for (int column = 0; column < Columns; column += kWidth * kLanes)
        kBlocks[high - 1](a + row * RowStep, b + column, sums + row * SumStep + column, depth);
      row += high;
    }
  }
};

// What the first layer reads of a row: of each line of pixels four at a time, of each of the frames.
inline void read_levels(const std::uint8_t* stack, bool centered, float* out) {
  constexpr int kSide = 84, kFrame = kSide * kSide;
  const float mean = centered ? mean_grey_level(stack, kTorsoPixels) : 0.0f;
  for (int i = 0; i < kFrame; i += 4, out += 16) {
    std::int32_t four[4];
    for (int frame = 0; frame < 4; ++frame) std::memcpy(&four[frame], stack + frame * kFrame + i, 4);
    widen16(_mm_setr_epi32(four[0], four[1], four[2], four[3]), mean, out);
  }
}

// A layer: blocks of Stride x Stride pixels, `kGrid` x `kGrid` of them, are its input; their numbers are `kChannels`,
// of which a line of pixels is `kLine`, side by side in memory.
template <class Transforms, int Stride, int In, int InChannels, int Out, int Filters, int Chunk>
struct Layer {
  using T = Transforms;
  static constexpr int kGrid = In / Stride, kTiles = (Out + T::m - 1) / T::m, kTilesOfRow = kTiles * kTiles;
  static constexpr int kLine = Stride * InChannels, kChannels = Stride * kLine;
  static constexpr int kProducts = T::n * T::n, kKernel = T::r * Stride, kTaps = T::r * T::r;
  static constexpr int kRead = In * In * InChannels, kMade = Out * Out * Filters;
  static constexpr int kChunk = Chunk;  // rows whose products are computed together
  static constexpr std::size_t kSizeOfWeights = std::size_t{kProducts} * kChannels * Filters;
  static constexpr bool kReadsLevels = In == 84;  // with a line's pixels innermost, not their channels
  // Of the levels: features are made of numbers between 0 and 1. Scaling the weights is less work.
  static constexpr float kScale = kReadsLevels ? 1.0f / 255 : 1.0f;
  static FASTDQN_INLINE Vector scaled(Vector weight) {
    return kReadsLevels ? multiply(set(kScale), weight) : weight;
  }
  static constexpr int kFilterStep = InChannels * kKernel * kKernel;
  static_assert(kLine % kLanes == 0 && Filters % kLanes == 0 && Filters % 16 == 0);

  // Numbers between a chunk's matrices; a little more than fills them, or all would share a few lines of the cache.
  static constexpr std::size_t plane(int tiles, int numbers) {
    return static_cast<std::size_t>(tiles) * numbers + 16;
  }
  static constexpr std::size_t kInputs = kProducts * plane(Chunk * kTilesOfRow, kChannels);
  static constexpr std::size_t kOutputs = kProducts * plane(Chunk * kTilesOfRow, Filters);

  // Where a channel of a tap is in the weights as PyTorch has them: filter, channel, height, width.
  static constexpr int place(int tap, int channel) {
    const int within = channel % kLine;
    const int x = kReadsLevels ? within % Stride : within / InChannels,
              own = kReadsLevels ? within / Stride : within % InChannels;
    return (own * kKernel + tap / T::r * Stride + channel / kLine) * kKernel + tap % T::r * Stride + x;
  }

  // out[product][channel][filter].
  static void load_weights(const float* weights, float* out) {
    for (int filter = 0; filter < Filters; filter += kLanes) load_weights(weights, filter, out);
  }
  static void load_weights(const float* weights, int filter, float* out) {
    for (int channel = 0; channel < kChannels; ++channel) {
      alignas(64) float lanes[kTaps][kLanes];
      for (int lane = 0; lane < kLanes; ++lane)
        for (int tap = 0; tap < kTaps; ++tap)
          lanes[tap][lane] = weights[(filter + lane) * kFilterStep + place(tap, channel)];
      Vector taps[kTaps], made[kProducts];
      for (int tap = 0; tap < kTaps; ++tap) taps[tap] = scaled(load(lanes[tap]));
      transform<WeightTransform<T>>(taps, made);
      for (int i = 0; i < kProducts; ++i)
        store(out + (static_cast<std::size_t>(i) * kChannels + channel) * Filters + filter, made[i]);
    }
  }

  // out[product][filter][channel].
  static void load_weights_across(const float* weights, float* out) {
    for (int filter = 0; filter < Filters; ++filter) load_weights_across(weights, filter, out);
  }
  static void load_weights_across(const float* weights, int filter, float* out) {
    for (int channel = 0; channel < kChannels; channel += kLanes) {
      alignas(64) float lanes[kTaps][kLanes];
      for (int lane = 0; lane < kLanes; ++lane)
        for (int tap = 0; tap < kTaps; ++tap)
          lanes[tap][lane] = weights[filter * kFilterStep + place(tap, channel + lane)];
      Vector taps[kTaps], made[kProducts];
      for (int tap = 0; tap < kTaps; ++tap) taps[tap] = scaled(load(lanes[tap]));
      transform<WeightTransform<T>>(taps, made);
      for (int i = 0; i < kProducts; ++i)
        store(out + (static_cast<std::size_t>(i) * Filters + filter) * kChannels + channel, made[i]);
    }
  }

  // The gradient of one filter's weights from those of the products, added up over `parts` of them, `step` apart.
  static void write_gradient(const float* products, std::size_t parts, std::size_t step, int filter,
                             float* out) {
    for (int channel = 0; channel < kChannels; channel += kLanes) {
      Vector sums[kProducts], made[kTaps];
      for (int i = 0; i < kProducts; ++i) {
        const float* from = products + (static_cast<std::size_t>(i) * Filters + filter) * kChannels + channel;
        sums[i] = load(from);
        for (std::size_t part = 1; part < parts; ++part) sums[i] = add(sums[i], load(from + part * step));
      }
      transform<Transposed<WeightTransform<T>>>(sums, made);
      alignas(64) float lanes[kTaps][kLanes];
      for (int tap = 0; tap < kTaps; ++tap) store(lanes[tap], scaled(made[tap]));
      for (int lane = 0; lane < kLanes; ++lane)
        for (int tap = 0; tap < kTaps; ++tap)
          out[filter * kFilterStep + place(tap, channel + lane)] = lanes[tap][lane];
    }
  }

  // out[product][tile][channel] of some rows.
  static void read_inputs(const float* maps, int rows, float* out) {
    const std::size_t step = plane(rows * kTilesOfRow, kChannels);
    for (int row = 0; row < rows; ++row)
      for (int tile_y = 0; tile_y < kTiles; ++tile_y)
        for (int tile_x = 0; tile_x < kTiles; ++tile_x)
          for (int channel = 0; channel < kChannels; channel += kLanes) {
            const int line = channel / kLine, place_in_line = channel % kLine;
            const float* corner = maps + static_cast<std::size_t>(row) * kRead +
                                  (tile_y * T::m * Stride + line) * In * InChannels + tile_x * T::m * kLine +
                                  place_in_line;
            float* to = out + ((row * kTiles + tile_y) * kTiles + tile_x) * kChannels + channel;
            Vector blocks[kProducts], made[kProducts];
            for (int y = 0; y < T::n; ++y)
              for (int x = 0; x < T::n; ++x) {
                const bool there = is_there(tile_y, y, kGrid) && is_there(tile_x, x, kGrid);
                blocks[y * T::n + x] =
                    there ? load(corner + y * Stride * In * InChannels + x * kLine) : zero();
              }
            transform<InputTransform<T>>(blocks, made);
            for (int i = 0; i < kProducts; ++i) store(to + i * step, made[i]);
          }
  }

  // Adds to the maps' gradient, which begins with zeros, what `in`, [product][tile][channel], says of it.
  static void add_inputs_gradient(const float* in, int rows, float* maps) {
    const std::size_t step = plane(rows * kTilesOfRow, kChannels);
    for (int row = 0; row < rows; ++row)
      for (int tile_y = 0; tile_y < kTiles; ++tile_y)
        for (int tile_x = 0; tile_x < kTiles; ++tile_x)
          for (int channel = 0; channel < kChannels; channel += kLanes) {
            const int line = channel / kLine, place_in_line = channel % kLine;
            float* corner = maps + static_cast<std::size_t>(row) * kRead +
                            (tile_y * T::m * Stride + line) * In * InChannels + tile_x * T::m * kLine +
                            place_in_line;
            const float* from = in + ((row * kTiles + tile_y) * kTiles + tile_x) * kChannels + channel;
            Vector products[kProducts], made[kProducts];
            for (int i = 0; i < kProducts; ++i) products[i] = load(from + i * step);
            transform<Transposed<InputTransform<T>>>(products, made);
            for (int y = 0; y < T::n; ++y)
              for (int x = 0; x < T::n; ++x)
                if (is_there(tile_y, y, kGrid) && is_there(tile_x, x, kGrid)) {
                  float* to = corner + y * Stride * In * InChannels + x * kLine;
                  store(to, add(load(to), made[y * T::n + x]));
                }
          }
  }

  // The maps that the sums of products, [product][tile][filter], make, after the ReLU.
  static void write_outputs(const float* products, int rows, const float* biases, float* maps) {
    const std::size_t step = plane(rows * kTilesOfRow, Filters);
    for (int row = 0; row < rows; ++row)
      for (int tile_y = 0; tile_y < kTiles; ++tile_y)
        for (int tile_x = 0; tile_x < kTiles; ++tile_x)
          for (int filter = 0; filter < Filters; filter += kLanes) {
            const float* from = products + ((row * kTiles + tile_y) * kTiles + tile_x) * Filters + filter;
            float* corner = maps + static_cast<std::size_t>(row) * kMade +
                            (tile_y * Out + tile_x) * T::m * Filters + filter;
            const Vector bias = load(biases + filter);
            Vector sums[kProducts], made[T::m * T::m];
            for (int i = 0; i < kProducts; ++i) sums[i] = load(from + i * step);
            transform<OutputTransform<T>>(sums, made);
            for (int y = 0; y < T::m; ++y)
              for (int x = 0; x < T::m; ++x)
                if (is_there(tile_y, y, Out) && is_there(tile_x, x, Out))
                  store(corner + (y * Out + x) * Filters, positive_part(add(made[y * T::m + x], bias)));
          }
  }

  // out[product][tile][filter] from the gradient of the maps, which their ReLUs let through or not; adds to `biases`.
  static void read_outputs_gradient(const float* gradient, const float* maps, int rows, float* out,
                                    float* biases) {
    const std::size_t step = plane(rows * kTilesOfRow, Filters);
    for (int row = 0; row < rows; ++row)
      for (int tile_y = 0; tile_y < kTiles; ++tile_y)
        for (int tile_x = 0; tile_x < kTiles; ++tile_x)
          for (int filter = 0; filter < Filters; filter += kLanes) {
            const std::size_t corner =
                static_cast<std::size_t>(row) * kMade + (tile_y * Out + tile_x) * T::m * Filters + filter;
            float* to = out + ((row * kTiles + tile_y) * kTiles + tile_x) * Filters + filter;
            Vector pixels[T::m * T::m], made[kProducts], bias = load(biases + filter);
            for (int y = 0; y < T::m; ++y)
              for (int x = 0; x < T::m; ++x) {
                Vector& pixel = pixels[y * T::m + x] = zero();
                if (is_there(tile_y, y, Out) && is_there(tile_x, x, Out)) {
                  const std::size_t at = corner + (y * Out + x) * Filters;
                  pixel = kept_where_positive(load(gradient + at), load(maps + at));
                  bias = add(bias, pixel);
                }
              }
            store(biases + filter, bias);
            transform<Transposed<OutputTransform<T>>>(pixels, made);
            for (int i = 0; i < kProducts; ++i) store(to + i * step, made[i]);
          }
  }

  // `below` gives what a number of rows from one on are made of.
  template <class Below>
  static void forward(const Below& below, std::size_t rows, const float* weights, const float* biases,
                      float* made, float* inputs, float* outputs) {
    for (std::size_t row = 0; row < rows; row += Chunk) {
      const int count = static_cast<int>(rows - row < Chunk ? rows - row : Chunk),
                tiles = count * kTilesOfRow;
      read_inputs(below(row, count), count, inputs);
      for (int i = 0; i < kProducts; ++i)
        Product<kTilesOfRow, Chunk, Filters, kChannels, 1, Filters, Filters, false>::run(
            inputs + i * plane(tiles, kChannels), weights + static_cast<std::size_t>(i) * kChannels * Filters,
            outputs + i * plane(tiles, Filters), count, kChannels);
      write_outputs(outputs, count, biases, made + row * kMade);
    }
  }

  // Adds to the sums of the products' gradients, [product][filter][channel], and of the biases'. Fills `read_gradient`
  // unless it is null, by `across`, what load_weights_across made.
  template <class Below>
  static void backward(const float* made_gradient, const Below& below, const float* made, std::size_t rows,
                       const float* across, float* read_gradient, float* weight_sums, float* bias_sums,
                       float* inputs, float* outputs) {
    if (read_gradient) std::memset(read_gradient, 0, sizeof(float) * rows * kRead);
    for (std::size_t row = 0; row < rows; row += Chunk) {
      const int count = static_cast<int>(rows - row < Chunk ? rows - row : Chunk),
                tiles = count * kTilesOfRow;
      read_outputs_gradient(made_gradient + row * kMade, made + row * kMade, count, outputs, bias_sums);
      if (read_gradient) {
        for (int i = 0; i < kProducts; ++i)
          Product<kTilesOfRow, Chunk, kChannels, Filters, 1, kChannels, kChannels, false>::run(
              outputs + i * plane(tiles, Filters), across + static_cast<std::size_t>(i) * kChannels * Filters,
              inputs + i * plane(tiles, kChannels), count, Filters);
        add_inputs_gradient(inputs, count, read_gradient + row * kRead);
      }
      read_inputs(below(row, count), count, inputs);
      for (int i = 0; i < kProducts; ++i)
        Product<Filters, 1, kChannels, 1, Filters, kChannels, kChannels, true>::run(
            outputs + i * plane(tiles, Filters), inputs + i * plane(tiles, kChannels),
            weight_sums + static_cast<std::size_t>(i) * kChannels * Filters, 1, tiles);
    }
  }

 private:
  static constexpr bool is_there(int tile, int within, int size) {
    // Where tiles fill the maps exactly nothing is left to ask.
    return (kTiles - 1) * T::m + (size == Out ? T::m : T::n) <= size || tile * T::m + within < size;
  }
};

// Rows of maps, and rows of grey levels, which are made of the stacks when they are asked for.
template <class Layer>
struct Maps {
  const float* maps;
  const float* operator()(std::size_t row, int) const { return maps + row * Layer::kRead; }
};
struct Levels {
  const std::uint8_t* stacks;
  bool centered;
  float* room;
  const float* operator()(std::size_t row, int count) const {
    for (int i = 0; i < count; ++i)
      read_levels(stacks + (row + i) * kTorsoPixels, centered, room + i * kTorsoPixels);
    return room;
  }
};

template <int Narrow, int Wide>
struct Torso {
  using First = Layer<Outputs4Kernel2, 4, 84, 4, 20, Narrow, 1>;
  using Second = Layer<Outputs3Kernel2, 2, 20, Narrow, 9, Wide, 2>;
  using Third = Layer<Outputs4Kernel3, 1, 9, Wide, 7, Wide, 4>;
  static constexpr std::size_t kSizeOfWeights[3] = {First::kSizeOfWeights, Second::kSizeOfWeights,
                                                    Third::kSizeOfWeights};
  static constexpr std::size_t kAllWeights = kSizeOfWeights[0] + kSizeOfWeights[1] + kSizeOfWeights[2];
  static constexpr std::size_t kLargestWeights =
      std::max({kSizeOfWeights[0], kSizeOfWeights[1], kSizeOfWeights[2]});
  static constexpr std::size_t kAllBiases = Narrow + 2 * Wide;
  static constexpr std::size_t kInputs = std::max({First::kInputs, Second::kInputs, Third::kInputs});
  static constexpr std::size_t kOutputs = std::max({First::kOutputs, Second::kOutputs, Third::kOutputs});

  static constexpr std::size_t kLevels = First::kChunk * kTorsoPixels, kOwn = kLevels + kInputs + kOutputs;

  // Each part arranges the weights for itself. Shared they would be half the work, but what two cores write by turns
  // travels between them: where they share no cache that takes longer than all the rest.
  static std::size_t parts_for(std::size_t rows, const Parallel& parallel) {
    return std::max<std::size_t>(1, std::min(parallel.threads, rows / kLeastRows));
  }
  static constexpr std::size_t kLeastRows = 4;

  static void forward(const std::uint8_t* stacks, std::size_t rows, bool centered,
                      const TorsoLayers<const float>& layers, float* const maps[3],
                      const Parallel& parallel) {
    const std::size_t parts = parts_for(rows, parallel), own_size = kLargestWeights + kOwn;
    const Room room(parts * own_size);
    float* const own_room = room.get();
    parallel.run(parts, [&](std::size_t part) {
      const std::size_t from = rows * part / parts, count = rows * (part + 1) / parts - from;
      float* const weights = own_room + part * own_size;
      float *levels = weights + kLargestWeights, *inputs = levels + kLevels, *outputs = inputs + kInputs;
      float *first = maps[0] + from * First::kMade, *second = maps[1] + from * Second::kMade;
      First::load_weights(layers.weights[0], weights);
      First::forward(Levels{stacks + from * kTorsoPixels, centered, levels}, count, weights, layers.biases[0],
                     first, inputs, outputs);
      Second::load_weights(layers.weights[1], weights);
      Second::forward(Maps<Second>{first}, count, weights, layers.biases[1], second, inputs, outputs);
      Third::load_weights(layers.weights[2], weights);
      Third::forward(Maps<Third>{second}, count, weights, layers.biases[2], maps[2] + from * Third::kMade,
                     inputs, outputs);
    });
  }

  static void backward(const float* features_gradient, const std::uint8_t* stacks, std::size_t rows,
                       bool centered, const TorsoLayers<const float>& layers, const float* const maps[3],
                       const TorsoLayers<float>& gradients, const Parallel& parallel) {
    const std::size_t parts = parts_for(rows, parallel), most = (rows + parts - 1) / parts,
                      sums_size = kAllWeights + kAllBiases,
                      own_size = sums_size + kLargestWeights + kOwn + most * (First::kMade + Second::kMade);
    const Room room(parts * own_size);
    float* const own_room = room.get();
    parallel.run(parts, [&](std::size_t part) {
      const std::size_t from = rows * part / parts, count = rows * (part + 1) / parts - from;
      float* const sums = own_room + part * own_size;
      float *bias_sums = sums + kAllWeights, *weights = sums + sums_size, *levels = weights + kLargestWeights,
            *inputs = levels + kLevels, *outputs = inputs + kInputs, *first_gradient = outputs + kOutputs,
            *second_gradient = first_gradient + count * First::kMade;
      const float *first = maps[0] + from * First::kMade, *second = maps[1] + from * Second::kMade;
      std::memset(sums, 0, sizeof(float) * sums_size);
      Third::load_weights_across(layers.weights[2], weights);
      Third::backward(features_gradient + from * Third::kMade, Maps<Third>{second},
                      maps[2] + from * Third::kMade, count, weights, second_gradient,
                      sums + kSizeOfWeights[0] + kSizeOfWeights[1], bias_sums + Narrow + Wide, inputs,
                      outputs);
      Second::load_weights_across(layers.weights[1], weights);
      Second::backward(second_gradient, Maps<Second>{first}, second, count, weights, first_gradient,
                       sums + kSizeOfWeights[0], bias_sums + Narrow, inputs, outputs);
      First::backward(first_gradient, Levels{stacks + from * kTorsoPixels, centered, levels}, first, count,
                      nullptr, nullptr, sums, bias_sums, inputs, outputs);
    });
    parallel.run(parts, [&](std::size_t part) {
      const float *second = own_room + kSizeOfWeights[0], *third = second + kSizeOfWeights[1];
      for (std::size_t filter = Wide * part / parts; filter < Wide * (part + 1) / parts; ++filter) {
        Second::write_gradient(second, parts, own_size, static_cast<int>(filter), gradients.weights[1]);
        Third::write_gradient(third, parts, own_size, static_cast<int>(filter), gradients.weights[2]);
      }
      for (std::size_t filter = Narrow * part / parts; filter < Narrow * (part + 1) / parts; ++filter)
        First::write_gradient(own_room, parts, own_size, static_cast<int>(filter), gradients.weights[0]);
    });
    const float* biases = own_room + kAllWeights;
    const int filters[3] = {Narrow, Wide, Wide};
    for (int layer = 0; layer < 3; ++layer)
      for (int filter = 0; filter < filters[layer]; ++filter, ++biases) {
        float sum = *biases;
        for (std::size_t part = 1; part < parts; ++part) sum += biases[part * own_size];
        gradients.biases[layer][filter] = sum;
      }
  }
};
