// Span: a pointer and a length, as std::span of C++20, for a C++17 interface.
//
// Ownership: a Span owns nothing; the memory must outlive every use of it. Copying a Span costs two words.
// Exceptions: none. Indexing is unchecked.
#pragma once

#include <cstddef>
#include <type_traits>
#include <vector>

namespace fastdqn {

template <class T>
class Span {
 public:
  constexpr Span() noexcept = default;
  constexpr Span(T* data, std::size_t size) noexcept : data_(data), size_(size) {}

  // A Span of the elements of `values`; invalid once the vector grows or dies.
  Span(std::vector<std::remove_const_t<T>>& values) noexcept : data_(values.data()), size_(values.size()) {}

  // The same of a const vector, where T is const.
  template <class U = T, class = std::enable_if_t<std::is_const_v<U>>>
  Span(const std::vector<std::remove_const_t<T>>& values) noexcept
      : data_(values.data()), size_(values.size()) {}

  // A Span<const T> of the same elements.
  template <class U, class = std::enable_if_t<std::is_same_v<const U, T> && !std::is_same_v<U, T>>>
  constexpr Span(Span<U> other) noexcept : data_(other.data()), size_(other.size()) {}

  constexpr T* data() const noexcept { return data_; }
  constexpr std::size_t size() const noexcept { return size_; }
  constexpr bool empty() const noexcept { return size_ == 0; }
  constexpr T& operator[](std::size_t index) const noexcept { return data_[index]; }
  constexpr T* begin() const noexcept { return data_; }
  constexpr T* end() const noexcept { return data_ + size_; }

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace fastdqn
