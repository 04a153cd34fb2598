// The kernels in float32 that are compiled for AVX-512 and for AVX2: linear.hpp and winograd_torso.hpp.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

#include "fastdqn/detail/grey_levels.hpp"
#include "fastdqn/detail/linear.hpp"
#include "fastdqn/detail/winograd_torso.hpp"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define FASTDQN_VECTORS
#define FASTDQN_INLINE inline __attribute__((always_inline))
#endif

namespace fastdqn {

#if defined(FASTDQN_VECTORS)

namespace {

// Memory for numbers, not filled, that begins where a line of the cache does. The calling thread keeps it for its next
// call: taken from the system anew, its pages would cost more than the arithmetic. More than a batch of some thousands
// needs is given back.
class Room {
 public:
  explicit Room(std::size_t numbers) {
    if (numbers > kMostKept) {
      numbers_ = (own_ = taken(numbers)).get();
      return;
    }
    static thread_local Memory kept;
    static thread_local std::size_t size = 0;
    if (size < numbers) {
      size = 0;
      kept.reset();  // before the next is asked for
      kept = taken(numbers);
      size = numbers;
    }
    numbers_ = kept.get();
  }
  float* get() const { return numbers_; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  static constexpr std::size_t kMostKept = std::size_t{1} << 26;
  struct Free {
    void operator()(float* memory) const { ::operator delete(memory, kAlignment); }
  };
  using Memory = std::unique_ptr<float, Free>;
  static Memory taken(std::size_t numbers) {
    return Memory(static_cast<float*>(::operator new(sizeof(float) * numbers, kAlignment)));
  }
  Memory own_;
  float* numbers_;
};

}  // namespace

// For the functions between alone: the rest of the core runs on every x86-64.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // of its own header of intrinsics
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC target("avx512f")
#endif
namespace {
namespace avx512 {
using Vector = __m512;
constexpr int kLanes = 16;
constexpr int kMostRows = 14, kLinearRows = 6, kLinearOutputs = 4;  // 28 and 24 of 32 registers hold sums
FASTDQN_INLINE Vector zero() { return _mm512_setzero_ps(); }
FASTDQN_INLINE Vector set(float value) { return _mm512_set1_ps(value); }
FASTDQN_INLINE Vector load(const float* from) { return _mm512_loadu_ps(from); }
FASTDQN_INLINE void store(float* to, Vector value) { _mm512_storeu_ps(to, value); }
FASTDQN_INLINE Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
FASTDQN_INLINE Vector subtract(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
FASTDQN_INLINE Vector multiply(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
FASTDQN_INLINE Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
FASTDQN_INLINE float reduced(Vector value) { return _mm512_reduce_add_ps(value); }
// A maximum takes its second operand where one is NaN, so that a NaN is not hidden.
FASTDQN_INLINE Vector positive_part(Vector value) { return _mm512_max_ps(zero(), value); }
FASTDQN_INLINE Vector kept_where_positive(Vector value, Vector map) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(map, zero(), _CMP_NLE_UQ), value);
}
FASTDQN_INLINE void widen16(__m128i bytes, float less, float* to) {
  store(to, subtract(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)), set(less)));
}
#include "linear.inl"
#include "winograd_torso.inl"
}  // namespace avx512
}  // namespace
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC diagnostic pop
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
namespace {
namespace avx2 {
using Vector = __m256;
constexpr int kLanes = 8;
constexpr int kMostRows = 6, kLinearRows = 4, kLinearOutputs = 3;  // 12 of 16 registers hold sums
FASTDQN_INLINE Vector zero() { return _mm256_setzero_ps(); }
FASTDQN_INLINE Vector set(float value) { return _mm256_set1_ps(value); }
FASTDQN_INLINE Vector load(const float* from) { return _mm256_loadu_ps(from); }
FASTDQN_INLINE void store(float* to, Vector value) { _mm256_storeu_ps(to, value); }
FASTDQN_INLINE Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
FASTDQN_INLINE Vector subtract(Vector a, Vector b) { return _mm256_sub_ps(a, b); }
FASTDQN_INLINE Vector multiply(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
FASTDQN_INLINE Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
FASTDQN_INLINE float reduced(Vector value) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(value), _mm256_extractf128_ps(value, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
FASTDQN_INLINE Vector positive_part(Vector value) { return _mm256_max_ps(zero(), value); }
FASTDQN_INLINE Vector kept_where_positive(Vector value, Vector map) {
  return _mm256_and_ps(value, _mm256_cmp_ps(map, zero(), _CMP_NLE_UQ));
}
FASTDQN_INLINE void widen16(__m128i bytes, float less, float* to) {
  store(to, subtract(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)), set(less)));
  store(to + 8, subtract(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))), set(less)));
}
#include "linear.inl"
#include "winograd_torso.inl"
}  // namespace avx2
}  // namespace
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

// From here on every CPU may run it.
#if !defined(FASTDQN_MOST_AVX)  // tests compile it for less
#define FASTDQN_MOST_AVX 512
#endif
namespace {
const bool kHasAvx512 = FASTDQN_MOST_AVX >= 512 && __builtin_cpu_supports("avx512f") != 0;
const bool kHasAvx2 =
    FASTDQN_MOST_AVX >= 2 && __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
}  // namespace

bool has_linear() noexcept { return kHasAvx512 || kHasAvx2; }

void linear(const float* in, std::size_t rows, std::size_t inputs, const float* weights, const float* biases,
            std::size_t outputs, float* out, const Parallel& parallel) {
  (kHasAvx512 ? &avx512::linear : &avx2::linear)(in, rows, inputs, weights, biases, outputs, out, parallel);
}

bool has_winograd_torso() noexcept { return kHasAvx512 || kHasAvx2; }

void winograd_torso(TorsoWidth width, const std::uint8_t* stacks, std::size_t rows, bool centered,
                    const TorsoLayers<const float>& layers, float* const maps[3], const Parallel& parallel) {
  const bool full = width == TorsoWidth::kFull;
  const auto forward = kHasAvx512 ? (full ? &avx512::Torso<32, 64>::forward : &avx512::Torso<16, 32>::forward)
                                  : (full ? &avx2::Torso<32, 64>::forward : &avx2::Torso<16, 32>::forward);
  forward(stacks, rows, centered, layers, maps, parallel);
}

void winograd_torso_backward(TorsoWidth width, const float* features_gradient, const std::uint8_t* stacks,
                             std::size_t rows, bool centered, const TorsoLayers<const float>& layers,
                             const float* const maps[3], const TorsoLayers<float>& gradients,
                             const Parallel& parallel) {
  const bool full = width == TorsoWidth::kFull;
  const auto backward = kHasAvx512
                            ? (full ? &avx512::Torso<32, 64>::backward : &avx512::Torso<16, 32>::backward)
                            : (full ? &avx2::Torso<32, 64>::backward : &avx2::Torso<16, 32>::backward);
  backward(features_gradient, stacks, rows, centered, layers, maps, gradients, parallel);
}

#else  // never called: has_linear and has_winograd_torso say so

bool has_linear() noexcept { return false; }
void linear(const float*, std::size_t, std::size_t, const float*, const float*, std::size_t, float*,
            const Parallel&) {}

bool has_winograd_torso() noexcept { return false; }
void winograd_torso(TorsoWidth, const std::uint8_t*, std::size_t, bool, const TorsoLayers<const float>&,
                    float* const[3], const Parallel&) {}
void winograd_torso_backward(TorsoWidth, const float*, const std::uint8_t*, std::size_t, bool,
                             const TorsoLayers<const float>&, const float* const[3],
                             const TorsoLayers<float>&, const Parallel&) {}

#endif

}  // namespace fastdqn
