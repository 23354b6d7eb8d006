// SPDX-License-Identifier: Apache-2.0
// Integers in a mapped file. Plain C++17.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>

namespace megacpt {

// An array of T that need not be aligned: the arrays of a .idx begin at byte 34.
template <typename T>
class FileArray {
 public:
  FileArray(const void* begin, std::int64_t size)
      : begin_(static_cast<const unsigned char*>(begin)), size_(size) {}

  std::int64_t size() const { return size_; }

  T operator[](std::int64_t index) const {
    T value;
    std::memcpy(&value, begin_ + index * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
    return value;
  }

  const void* address(std::int64_t index) const {
    return begin_ + index * static_cast<std::int64_t>(sizeof(T));
  }

 private:
  const unsigned char* begin_;
  std::int64_t size_;
};

// Two forms: a literal costs nothing where it is not needed.
inline void require(bool holds, const char* message) {
  if (!holds) throw std::invalid_argument(message);
}
inline void require(bool holds, const std::string& message) { require(holds, message.c_str()); }

}  // namespace megacpt
