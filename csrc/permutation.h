// SPDX-License-Identifier: Apache-2.0
// A keyed bijection on 0..size-1, evaluated one index at a time: shuffling without an index file.
// Plain C++17: no Python, so it can be tested alone.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace megacpt {

// An unbalanced Feistel network on the smallest number of bits that holds `size`, with
// cycle-walking (Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains", section 4): an
// image outside 0..size-1 is enciphered again until it falls inside. The domain is less than twice
// `size` (or 256), so fewer than two passes are expected. Over random keys, images of an index and
// differences of neighbours are uniform by chi-square (tests/csrc); with fewer than 8 bits or
// rounds they are not.
class Permutation {
 public:
  static constexpr int kRounds = 8;
  static constexpr int kFewestBits = 8;

  Permutation(std::int64_t size, std::uint64_t key) : size_(size) {
    if (size < 1 || size > kLargestSize)
      throw std::invalid_argument("size must be in 1..2^62, got " + std::to_string(size));
    int bits = kFewestBits;
    while ((std::uint64_t{1} << bits) < static_cast<std::uint64_t>(size)) ++bits;
    low_bits_ = (bits + 1) / 2;
    low_mask_ = (std::uint64_t{1} << low_bits_) - 1;
    high_mask_ = (std::uint64_t{1} << (bits - low_bits_)) - 1;
    for (auto& round_key : round_keys_) round_key = mix(key += kGolden);
  }

  std::int64_t operator()(std::int64_t index) const {
    if (index < 0 || index >= size_)
      throw std::out_of_range("index must be in 0.." + std::to_string(size_ - 1) + ", got " +
                              std::to_string(index));
    auto image = static_cast<std::uint64_t>(index);
    do image = encipher(image);
    while (image >= static_cast<std::uint64_t>(size_));
    return static_cast<std::int64_t>(image);
  }

 private:
  static constexpr std::int64_t kLargestSize = std::int64_t{1} << 62;
  static constexpr std::uint64_t kGolden = 0x9E3779B97F4A7C15;

  // The finaliser of splitmix64 (Steele, Lea and Flood 2014).
  static std::uint64_t mix(std::uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
    return x ^ (x >> 31);
  }

  // Each half in turn is xored with a function of the other: every round is its own inverse.
  std::uint64_t encipher(std::uint64_t x) const {
    std::uint64_t low = x & low_mask_;
    std::uint64_t high = x >> low_bits_;
    for (int round = 0; round < kRounds; round += 2) {
      low ^= mix(high ^ round_keys_[round]) & low_mask_;
      high ^= mix(low ^ round_keys_[round + 1]) & high_mask_;
    }
    return (high << low_bits_) | low;
  }

  std::int64_t size_;
  int low_bits_ = 0;
  std::uint64_t low_mask_ = 0;
  std::uint64_t high_mask_ = 0;
  std::uint64_t round_keys_[kRounds] = {};
};

}  // namespace megacpt
