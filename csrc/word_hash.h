// SPDX-License-Identifier: Apache-2.0
// Hashes of words and of words in a row. Plain C++17; the same on every machine.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "words.h"

namespace megacpt {

// The finaliser of splitmix64 (Steele, Lea and Flood 2014).
inline std::uint64_t mixed(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

// One more number taken into a hash.
inline std::uint64_t joined(std::uint64_t hash, std::uint64_t number) {
  hash = (hash ^ number) * 0x9E3779B97F4A7C15;
  return hash ^ (hash >> 32);
}

// Eight bytes, the first one lowest.
inline std::uint64_t eight_bytes(const char* bytes) {
  std::uint64_t number = 0;
  for (unsigned k = 0; k < 8; ++k)
    number |= std::uint64_t{static_cast<unsigned char>(bytes[k])} << (8 * k);
  return number;
}

// Of its UTF-8, eight bytes at a time, the last ones filled up with 0. Words::kSpare bytes are read
// beyond it and do not count.
inline std::uint64_t word_hash(const char* bytes, std::size_t count) {
  std::uint64_t hash = 0;
  for (; count > 8; bytes += 8, count -= 8) hash = joined(hash, eight_bytes(bytes));
  return joined(hash, eight_bytes(bytes) & (~std::uint64_t{0} >> (64 - 8 * count)));
}

inline void hash_words(const Words& words, std::vector<std::uint64_t>& hashes) {
  hashes.resize(words.size());
  for (std::size_t n = 0; n < words.size(); ++n)
    hashes[n] = word_hash(words.bytes() + words.start(n), words.stop(n) - words.start(n));
}

// The hash of words in a row is their polynomial in this, modulo 2^64, mixed.
constexpr std::uint64_t kRowBase = 0xD6E8FEB86659FD93;

inline std::uint64_t power_of_base(std::size_t exponent) {
  std::uint64_t power = 1;
  for (std::size_t n = 0; n < exponent; ++n) power *= kRowBase;
  return power;
}

// The hash of every `length` words in a row; of fewer words none.
class RollingHash {
 public:
  explicit RollingHash(std::size_t length) : length_(length), power_(power_of_base(length)) {}

  template <typename Function>
  void each(const std::uint64_t* words, std::size_t count, const Function& function) const {
    if (count < length_) return;
    std::uint64_t sum = 0;
    for (std::size_t n = 0; n < length_; ++n) sum = sum * kRowBase + words[n];
    function(0, mixed(sum));
    for (std::size_t n = length_; n < count; ++n) {
      sum = sum * kRowBase + words[n] - words[n - length_] * power_;
      function(n - length_ + 1, mixed(sum));
    }
  }

 private:
  std::size_t length_;
  std::uint64_t power_;
};

inline std::uint64_t row_hash(const std::uint64_t* words, std::size_t count) {
  std::uint64_t sum = 0;
  for (std::size_t n = 0; n < count; ++n) sum = sum * kRowBase + words[n];
  return mixed(sum);
}

}  // namespace megacpt
