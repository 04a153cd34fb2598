// A replay file taken apart and put together again. The format's checksums are written here a second time, so that
// whatever was changed in between gets past them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace snapshot_text {

using Bytes = std::vector<std::uint8_t>;

struct Array {
  std::string name, dtype;
  std::vector<std::uint64_t> shape;
  Bytes bytes;

  std::size_t width() const { return dtype == "U8" ? 1 : 8; }
  std::size_t words() const { return bytes.size() / 8; }
  std::uint64_t word(std::size_t index) const {
    std::uint64_t value;
    std::memcpy(&value, bytes.data() + index * 8, 8);
    return value;
  }
  void set_word(std::size_t index, std::uint64_t value) { std::memcpy(bytes.data() + index * 8, &value, 8); }
};

struct File {
  std::vector<std::pair<std::string, std::string>> metadata;  // without the checksums
  std::vector<Array> arrays;
  bool sealed = true;  // files of the first version are not

  Array* find(const std::string& name) {
    for (Array& array : arrays) {
      if (array.name == name) return &array;
    }
    return nullptr;
  }
};

// 16 digits over bytes that come in pieces.
class Checksum {
 public:
  void add(const std::uint8_t* bytes, std::size_t count) {
    for (std::size_t at = 0; at <= count; at += 32) {
      const std::size_t left = std::min<std::size_t>(count - at, 32);
      std::uint8_t block[32] = {};
      if (left > 0) std::memcpy(block, bytes + at, left);
      for (int i = 0; i < 4; ++i) {
        std::uint64_t word;
        std::memcpy(&word, block + 8 * i, 8);
        const std::uint64_t chain = (chains_[i] ^ (left < 32 ? word + left : word)) * 0x9e3779b97f4a7c15ULL;
        chains_[i] = chain ^ (chain >> 29);
      }
    }
  }

  std::string text() const {
    std::uint64_t total = 0;
    for (const std::uint64_t chain : chains_) {
      total += chain;
      total = (total ^ (total >> 30)) * 0xbf58476d1ce4e5b9ULL;
      total = (total ^ (total >> 27)) * 0x94d049bb133111ebULL;
      total ^= total >> 31;
    }
    char digits[17];
    std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(total));
    return digits;
  }

 private:
  std::uint64_t chains_[4] = {1, 2, 3, 4};
};

inline std::uint64_t header_length(const std::string& text) {
  std::uint64_t length = 0;
  if (text.size() >= 8) std::memcpy(&length, text.data(), 8);
  return length;
}

// Writes the header's checksum anew; leaves alone what has no place for one.
inline void seal(std::string& text) {
  const std::string key = "\"header_checksum\":\"";
  const std::uint64_t length = header_length(text);
  if (text.size() < 8 || length > text.size() - 8) return;
  const std::size_t at = text.find(key);
  if (at == std::string::npos || at + key.size() + 16 > 8 + length) return;
  text.replace(at + key.size(), 16, std::string(16, '0'));
  Checksum sum;
  sum.add(reinterpret_cast<const std::uint8_t*>(text.data()), 8 + length);
  text.replace(at + key.size(), 16, sum.text());
}

// The next quoted word of a header from `at` on, which is moved behind it.
inline std::string quoted(const std::string& header, std::size_t& at) {
  const std::size_t begin = header.find('"', at) + 1, end = header.find('"', begin);
  at = end + 1;
  return header.substr(begin, end - begin);
}

// The numbers of the next list, likewise.
inline std::vector<std::uint64_t> listed(const std::string& header, std::size_t& at) {
  std::vector<std::uint64_t> numbers;
  at = header.find('[', at);
  while (header[at] != ']') {
    char* end = nullptr;
    numbers.push_back(std::strtoull(header.c_str() + at + 1, &end, 10));
    at = static_cast<std::size_t>(end - header.c_str());
  }
  return numbers;
}

// Takes a file that save() wrote apart.
inline File parse(const std::string& text) {
  const std::string header = text.substr(8, header_length(text));
  const std::size_t data = 8 + header.size();
  File file;
  std::size_t at = header.find('{', 1);
  while (header[at] != '}') {
    const std::string key = quoted(header, at), value = quoted(header, at);
    if (key != "checksum" && key != "header_checksum") file.metadata.push_back({key, value});
  }
  while (header.find('"', at) != std::string::npos) {
    Array array;
    array.name = quoted(header, at);
    quoted(header, at);  // "dtype"
    array.dtype = quoted(header, at);
    array.shape = listed(header, at);
    const std::vector<std::uint64_t> ends = listed(header, at);
    array.bytes.assign(text.begin() + static_cast<std::ptrdiff_t>(data + ends[0]),
                       text.begin() + static_cast<std::ptrdiff_t>(data + ends[1]));
    file.arrays.push_back(array);
  }
  return file;
}

// The lengths of the pieces in which the loader of such a buffer adds an array to the checksum.
inline std::vector<std::uint64_t> pieces(File& file, const Array& array, std::uint64_t ring,
                                         std::uint64_t frame_bytes) {
  const Array *lanes = file.find("lanes"), *groups = file.find("groups");
  std::vector<std::uint64_t> lengths;
  const auto each_lane = [&](std::size_t number, std::uint64_t bytes) {
    for (std::size_t at = number; lanes != nullptr && at < lanes->words(); at += 7) {
      lengths.push_back(std::min(lanes->word(at), ring) * bytes);
    }
  };
  if (array.name == "transitions") each_lane(1, 16);
  if (array.name == "priorities") each_lane(1, 8);
  if (array.name == "frames" && groups == nullptr) each_lane(0, frame_bytes);
  for (std::size_t at = 1; array.name == "frames" && groups != nullptr && at < groups->words(); at += 2) {
    lengths.push_back(groups->word(at));
  }
  return lengths;
}

inline std::string array_sum(File& file, std::uint64_t ring, std::uint64_t frame_bytes) {
  Checksum sum;
  for (const Array& array : file.arrays) {
    std::size_t at = 0;
    const auto add = [&](std::uint64_t length) {
      const std::size_t count = std::min<std::uint64_t>(length, array.bytes.size() - at);
      if (count > 0) sum.add(array.bytes.data() + at, count);
      at += count;
    };
    for (const std::uint64_t length : pieces(file, array, ring, frame_bytes)) add(length);
    add(array.bytes.size());
  }
  return sum.text();
}

// The file's text with checksums that fit and first extents that are those of the arrays' bytes.
inline std::string compose(File& file, std::uint64_t ring, std::uint64_t frame_bytes) {
  std::string header = "{\"__metadata__\":{", data;
  for (const auto& entry : file.metadata) header += "\"" + entry.first + "\":\"" + entry.second + "\",";
  header += "\"checksum\":\"" + array_sum(file, ring, frame_bytes) + "\"";
  if (file.sealed) header += ",\"header_checksum\":\"" + std::string(16, '0') + "\"";
  header += "}";
  for (Array& array : file.arrays) {
    std::uint64_t row = array.width();
    for (std::size_t i = 1; i < array.shape.size(); ++i) row *= array.shape[i];
    if (row > 0) array.shape[0] = array.bytes.size() / row;
    std::string shape;
    for (const std::uint64_t extent : array.shape)
      shape += (shape.empty() ? "" : ",") + std::to_string(extent);
    header += ",\"" + array.name + "\":{\"dtype\":\"" + array.dtype + "\",\"shape\":[" + shape +
              "],\"data_offsets\":[" + std::to_string(data.size()) + ",";
    data.append(array.bytes.begin(), array.bytes.end());
    header += std::to_string(data.size()) + "]}";
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = header.size();
  std::string text(reinterpret_cast<const char*>(&length), 8);
  text += header + data;
  seal(text);
  return text;
}

}  // namespace snapshot_text
