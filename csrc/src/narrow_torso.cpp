#include "fastdqn/detail/narrow_torso.hpp"

#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && (defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 11))
#include <immintrin.h>
#define FASTDQN_NARROW
#endif

namespace fastdqn {

#if defined(FASTDQN_NARROW)

// For the functions of this file alone: the rest of the core runs on every x86-64.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // of its own header of intrinsics
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512bf16")
#endif

namespace {

using Bits = Bfloat16Bits;

// A layer over square maps: `in` pixels wide, `channels` of them, a kernel, its stride, `out` pixels, `filters`.
struct Shape {
  int in, channels, kernel, stride, out, filters;
  constexpr int line() const {
    return kernel * channels;
  }  // numbers of a kernel's line, side by side in a map
  constexpr int lines16() const { return line() / 16; }
  constexpr int lines32() const { return (line() + 31) / 32; }
};

constexpr Shape kFirst{84, 4, 8, 4, 20, 8}, kSecond{20, 8, 4, 2, 9, 16}, kThird{9, 16, 3, 1, 7, 16};

template <int Index>
constexpr Shape kShape = Index == 0   ? kFirst
                         : Index == 1 ? kSecond
                                      : kThird;

// How many pixels are computed at once, as many sums as there are vectors to keep them in.
template <int Index>
constexpr int kPixels = Index == 0 ? 10 : kShape<Index>.out;

inline Bits rounded(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<Bits>((bits >> 16) | 0x40);  // stays a NaN
  return static_cast<Bits>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline float widened(Bits number) {
  const std::uint32_t bits = static_cast<std::uint32_t>(number) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// The instruction multiplies pairs: numbers of the same filter, side by side, then the next filter's.
template <int Index, int Lanes>
struct Forward {
  static constexpr Shape s = kShape<Index>;
  alignas(64) Bits weights[s.kernel * s.line() * Lanes];
  alignas(64) float biases[Lanes];

  void load(const float* from, const float* bias, int lane) {
    for (int filter = 0; filter < s.filters; ++filter) {
      biases[lane + filter] = bias[filter];
      for (int i = 0; i < s.kernel * s.line(); ++i)
        weights[(i / 2 * Lanes + lane + filter) * 2 + i % 2] =
            rounded(from[filter * s.kernel * s.line() + i]);
    }
  }

  // `store(pixel, numbers)` is given what Lanes filters make of each pixel. A maximum takes its second operand where
  // one is NaN, so that a NaN is not hidden.
  template <class Store>
  void operator()(const Bits* map, const Store& store) const {
    constexpr int pixels = kPixels<Index>, step = s.stride * s.channels / 2;
    for (int y = 0; y < s.out; ++y)
      for (int x = 0; x < s.out; x += pixels) {
        const Bits* corner = map + (y * s.stride * s.in + x * s.stride) * s.channels;
        const Bits* weight = weights;
        if constexpr (Lanes == 16) {
          __m512 sums[pixels];
          for (int p = 0; p < pixels; ++p) sums[p] = _mm512_load_ps(biases);
          for (int row = 0; row < s.kernel; ++row) {
            const int* pairs = reinterpret_cast<const int*>(corner + row * s.in * s.channels);
            for (int i = 0; i < s.line() / 2; ++i, weight += 32) {
              const __m512bh w = (__m512bh)_mm512_load_si512(weight);
#pragma GCC unroll 16
              for (int p = 0; p < pixels; ++p)
                sums[p] = _mm512_dpbf16_ps(sums[p], w, (__m512bh)_mm512_set1_epi32(pairs[i + p * step]));
            }
          }
          for (int p = 0; p < pixels; ++p)
            store(y * s.out + x + p,
                  (__m256i)_mm512_cvtneps_pbh(_mm512_max_ps(_mm512_setzero_ps(), sums[p])));
        } else {
          __m256 sums[pixels];
          for (int p = 0; p < pixels; ++p) sums[p] = _mm256_load_ps(biases);
          for (int row = 0; row < s.kernel; ++row) {
            const int* pairs = reinterpret_cast<const int*>(corner + row * s.in * s.channels);
            for (int i = 0; i < s.line() / 2; ++i, weight += 16) {
              const __m256bh w = (__m256bh)_mm256_load_si256(reinterpret_cast<const __m256i*>(weight));
#pragma GCC unroll 16
              for (int p = 0; p < pixels; ++p)
                sums[p] = _mm256_dpbf16_ps(sums[p], w, (__m256bh)_mm256_set1_epi32(pairs[i + p * step]));
            }
          }
          for (int p = 0; p < pixels; ++p)
            store(y * s.out + x + p,
                  (__m128i)_mm256_cvtneps_pbh(_mm256_max_ps(_mm256_setzero_ps(), sums[p])));
        }
      }
  }
};

struct StoreAll {
  Bits* map;
  void operator()(int pixel, __m256i numbers) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(map + pixel * 16), numbers);
  }
  void operator()(int pixel, __m128i numbers) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(map + pixel * 8), numbers);
  }
};

struct StoreHalves {
  Bits *low, *high;
  void operator()(int pixel, __m256i numbers) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(low + pixel * 8), _mm256_castsi256_si128(numbers));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(high + pixel * 8), _mm256_extracti128_si256(numbers, 1));
  }
};

// Sums of the weights' gradient: two vectors for each line of a kernel, 32 numbers of it and a filter, whose order
// is that of _mm512_unpacklo_epi16 and _mm512_unpackhi_epi16.
template <int Index>
struct WeightSums {
  static constexpr Shape s = kShape<Index>;
  alignas(64) float sums[s.kernel * s.lines32() * s.filters * 32];

  void clear() { std::memset(sums, 0, sizeof sums); }

  // Adds those of a row: what the layer read, and the gradient of what it made. Two pixels are one product.
  void add(const Bits* map, const Bits* gradient) {
    for (int row = 0; row < s.kernel; ++row)
      for (int part = 0; part < s.lines32(); ++part)
        for (int first = 0; first < s.filters; first += 8) add(map, gradient, row, part, first);
  }

  void write(float* out) const {
    for (int filter = 0; filter < s.filters; ++filter)
      for (int row = 0; row < s.kernel; ++row)
        for (int i = 0; i < s.line(); ++i) {
          const int lane = i % 32 / 8, place = i % 8;
          *out++ = sums[((row * s.lines32() + i / 32) * s.filters + filter) * 32 + (place < 4 ? 0 : 16) +
                        lane * 4 + place % 4];
        }
  }

 private:
  void add(const Bits* map, const Bits* gradient, int row, int part, int first) {
    float* own = sums + ((row * s.lines32() + part) * s.filters + first) * 32;
    const int rest = s.line() - part * 32;
    const __mmask32 there = rest >= 32 ? ~__mmask32{0} : (__mmask32{1} << rest) - 1;
    __m512 low[8], high[8];
    for (int i = 0; i < 8; ++i) {
      low[i] = _mm512_load_ps(own + i * 32);
      high[i] = _mm512_load_ps(own + i * 32 + 16);
    }
    for (int y = 0; y < s.out; ++y) {
      const Bits* line = map + (y * s.stride + row) * s.in * s.channels + part * 32;
      const Bits* made = gradient + y * s.out * s.filters + first;
      for (int x = 0; x < s.out; x += 2) {
        const bool alone = x + 1 == s.out;  // the last of an odd line
        const __m512i a = _mm512_maskz_loadu_epi16(there, line + x * s.stride * s.channels);
        const __m512i b = _mm512_maskz_loadu_epi16(alone ? 0 : there, line + (x + 1) * s.stride * s.channels);
        const __m128i c = _mm_loadu_si128(reinterpret_cast<const __m128i*>(made + x * s.filters));
        const __m128i d = _mm_maskz_loadu_epi16(alone ? 0 : 0xff, made + (x + 1) * s.filters);
        const __m512bh even = (__m512bh)_mm512_unpacklo_epi16(a, b),
                       odd = (__m512bh)_mm512_unpackhi_epi16(a, b);
        alignas(16) int pairs[8];
        _mm_store_si128(reinterpret_cast<__m128i*>(pairs), _mm_unpacklo_epi16(c, d));
        _mm_store_si128(reinterpret_cast<__m128i*>(pairs + 4), _mm_unpackhi_epi16(c, d));
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) {
          const __m512bh pair = (__m512bh)_mm512_set1_epi32(pairs[i]);
          low[i] = _mm512_dpbf16_ps(low[i], even, pair);
          high[i] = _mm512_dpbf16_ps(high[i], odd, pair);
        }
      }
    }
    for (int i = 0; i < 8; ++i) {
      _mm512_store_ps(own + i * 32, low[i]);
      _mm512_store_ps(own + i * 32 + 16, high[i]);
    }
  }
};

// From the gradient of what a layer made to that of what it read. Pairs are of filters.
template <int Index>
struct Backward {
  static constexpr Shape s = kShape<Index>;
  static constexpr int kFilterPairs = s.filters / 2;
  alignas(64) Bits weights[s.kernel * s.line() * s.filters];

  explicit Backward(const float* from) {
    for (int filter = 0; filter < s.filters; ++filter)
      for (int row = 0; row < s.kernel; ++row)
        for (int i = 0; i < s.line(); ++i)
          weights[(((row * s.lines16() + i / 16) * kFilterPairs + filter / 2) * 16 + i % 16) * 2 +
                  filter % 2] = rounded(from[(filter * s.kernel + row) * s.line() + i]);
  }

  void operator()(const Bits* made, float* read) const {
    std::memset(read, 0, sizeof(float) * s.in * s.in * s.channels);
    for (int y = 0; y < s.out; ++y)
      for (int x = 0; x < s.out; ++x) {
        const int* pairs = reinterpret_cast<const int*>(made + (y * s.out + x) * s.filters);
        for (int row = 0; row < s.kernel; ++row) {
          float* line = read + ((y * s.stride + row) * s.in + x * s.stride) * s.channels;
          const Bits* weight = weights + row * s.line() * s.filters;
          __m512 sums[s.lines16()];
          for (int part = 0; part < s.lines16(); ++part) sums[part] = _mm512_loadu_ps(line + part * 16);
#pragma GCC unroll 8
          for (int i = 0; i < kFilterPairs; ++i) {
            const __m512bh pair = (__m512bh)_mm512_set1_epi32(pairs[i]);
            for (int part = 0; part < s.lines16(); ++part)
              sums[part] = _mm512_dpbf16_ps(
                  sums[part], (__m512bh)_mm512_load_si512(weight + (part * kFilterPairs + i) * 32), pair);
          }
          for (int part = 0; part < s.lines16(); ++part) _mm512_storeu_ps(line + part * 16, sums[part]);
        }
      }
  }
};

// The gradient before a ReLU, in bfloat16, from that after it; `map` is what it let through.
inline __mmask16 let_through(const Bits* map) {  // as 16-bit integers, what is above 0 is above 0
  return _mm256_cmpgt_epi16_mask(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(map)),
                                 _mm256_setzero_si256());
}

template <int Count>
void before_relu(const float* gradient, const Bits* map, Bits* out) {
  static_assert(Count % 16 == 0);
  for (int i = 0; i < Count; i += 16)
    _mm256_storeu_si256(
        reinterpret_cast<__m256i*>(out + i),
        (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(let_through(map + i), gradient + i)));
}

template <int Count>
void before_relu(const Bits* gradient, const Bits* map, Bits* out) {
  static_assert(Count % 16 == 0);
  for (int i = 0; i < Count; i += 16)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i),
                        _mm256_maskz_loadu_epi16(let_through(map + i), gradient + i));
}

template <int Index>
void add_biases(const Bits* gradient, float* sums) {
  constexpr Shape s = kShape<Index>;
  for (int pixel = 0; pixel < s.out * s.out; ++pixel)
    for (int filter = 0; filter < s.filters; ++filter)
      sums[filter] += widened(gradient[pixel * s.filters + filter]);
}

// The second and the third layer of a row.
struct Upper {
  Forward<1, 16> second;
  Forward<2, 16> third;

  explicit Upper(const NarrowLayers<const float>& layers) {
    second.load(layers.weights[1], layers.biases[1], 0);
    third.load(layers.weights[2], layers.biases[2], 0);
  }

  void operator()(const Bits* first_map, Bits* second_map, Bits* features) const {
    second(first_map, StoreAll{second_map});
    third(second_map, StoreAll{features});
  }
};

}  // namespace

void narrow_torso(const Bits* pixels, std::size_t rows, const NarrowLayers<const float>& layers,
                  Bits* const maps[3]) {
  Forward<0, 8> first;
  first.load(layers.weights[0], layers.biases[0], 0);
  const Upper upper(layers);
  for (std::size_t row = 0; row < rows; ++row) {
    Bits* first_map = maps[0] + row * kNarrowMaps[0];
    first(pixels + row * kNarrowPixels, StoreAll{first_map});
    upper(first_map, maps[1] + row * kNarrowMaps[1], maps[2] + row * kNarrowMaps[2]);
  }
}

void narrow_torsos(const Bits* pixels, std::size_t rows, const NarrowLayers<const float> (&layers)[2],
                   Bits* const (&features)[2]) {
  Forward<0, 16> first;  // both networks' filters fill a vector
  for (int i = 0; i < 2; ++i) first.load(layers[i].weights[0], layers[i].biases[0], i * kFirst.filters);
  const Upper upper[2] = {Upper(layers[0]), Upper(layers[1])};
  Bits first_maps[2][kNarrowMaps[0]], second_map[kNarrowMaps[1]];
  for (std::size_t row = 0; row < rows; ++row) {
    first(pixels + row * kNarrowPixels, StoreHalves{first_maps[0], first_maps[1]});
    for (int i = 0; i < 2; ++i) upper[i](first_maps[i], second_map, features[i] + row * kNarrowMaps[2]);
  }
}

void narrow_torso_backward(const Bits* features_gradient, const Bits* pixels, std::size_t rows,
                           const NarrowLayers<const float>& layers, const Bits* const maps[3],
                           const NarrowLayers<float>& gradients) {
  const Backward<1> second(layers.weights[1]);
  const Backward<2> third(layers.weights[2]);
  WeightSums<0> first_sums;
  WeightSums<1> second_sums;
  WeightSums<2> third_sums;
  first_sums.clear(), second_sums.clear(), third_sums.clear();
  for (int i = 0; i < 3; ++i) std::memset(gradients.biases[i], 0, sizeof(float) * kNarrowFilters[i]);
  Bits first_made[kNarrowMaps[0]], second_made[kNarrowMaps[1]], third_made[kNarrowMaps[2]];
  alignas(64) float first_read[kNarrowMaps[0]], second_read[kNarrowMaps[1]];
  for (std::size_t row = 0; row < rows; ++row) {
    const Bits *first_map = maps[0] + row * kNarrowMaps[0], *second_map = maps[1] + row * kNarrowMaps[1],
               *features = maps[2] + row * kNarrowMaps[2];
    before_relu<kNarrowMaps[2]>(features_gradient + row * kNarrowMaps[2], features, third_made);
    add_biases<2>(third_made, gradients.biases[2]);
    third_sums.add(second_map, third_made);
    third(third_made, second_read);
    before_relu<kNarrowMaps[1]>(second_read, second_map, second_made);
    add_biases<1>(second_made, gradients.biases[1]);
    second_sums.add(first_map, second_made);
    second(second_made, first_read);
    before_relu<kNarrowMaps[0]>(first_read, first_map, first_made);
    add_biases<0>(first_made, gradients.biases[0]);
    first_sums.add(pixels + row * kNarrowPixels, first_made);
  }
  first_sums.write(gradients.weights[0]);
  second_sums.write(gradients.weights[1]);
  third_sums.write(gradients.weights[2]);
}

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC diagnostic pop
#pragma GCC pop_options
#endif

// Outside: this one runs on every CPU.
bool has_narrow_torso() noexcept {
  static const bool has = __builtin_cpu_supports("avx512bf16") != 0 &&
                          __builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("avx512vl") != 0;
  return has;
}

#else  // never called: has_narrow_torso says so

bool has_narrow_torso() noexcept { return false; }
void narrow_torso(const Bfloat16Bits*, std::size_t, const NarrowLayers<const float>&,
                  Bfloat16Bits* const[3]) {}
void narrow_torsos(const Bfloat16Bits*, std::size_t, const NarrowLayers<const float> (&)[2],
                   Bfloat16Bits* const (&)[2]) {}
void narrow_torso_backward(const Bfloat16Bits*, const Bfloat16Bits*, std::size_t,
                           const NarrowLayers<const float>&, const Bfloat16Bits* const[3],
                           const NarrowLayers<float>&) {}

#endif

}  // namespace fastdqn
