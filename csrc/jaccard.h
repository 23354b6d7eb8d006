// SPDX-License-Identifier: Apache-2.0
// How much sorted sets have in common. Plain C++17.
#pragma once

#include <cstddef>
#include <cstdint>

namespace megacpt {

// Members of both of two sorted sets. Four of one are compared with four of the other, turned three
// times; those of the lower last member are done with.
inline std::size_t num_common(const std::uint32_t* a, std::size_t a_size, const std::uint32_t* b,
                              std::size_t b_size) {
  typedef std::uint32_t Four __attribute__((vector_size(16), aligned(4), may_alias));
  std::size_t at = 0, other = 0;
  Four found = {};
  while (at + 4 <= a_size && other + 4 <= b_size) {
    const Four left = *reinterpret_cast<const Four*>(a + at);
    const Four right = *reinterpret_cast<const Four*>(b + other);
    const Four once{right[1], right[2], right[3], right[0]};
    const Four twice{right[2], right[3], right[0], right[1]};
    const Four thrice{right[3], right[0], right[1], right[2]};
    // A comparison gives -1 where it holds.
    found -= reinterpret_cast<Four>((left == right) | (left == once) | (left == twice) |
                                    (left == thrice));
    const std::uint32_t last = a[at + 3], other_last = b[other + 3];
    at += last <= other_last ? 4 : 0;
    other += other_last <= last ? 4 : 0;
  }
  std::size_t common = std::size_t{found[0]} + found[1] + found[2] + found[3];
  while (at < a_size && other < b_size) {
    const std::uint32_t left = a[at], right = b[other];
    common += left == right;
    at += left <= right;
    other += right <= left;
  }
  return common;
}

// Of two sorted sets, what they have in common over what either has; 0 where both are empty.
inline double jaccard(const std::uint32_t* a, std::size_t a_size, const std::uint32_t* b,
                      std::size_t b_size) {
  const std::size_t common = num_common(a, a_size, b, b_size);
  const std::size_t either = a_size + b_size - common;
  return either ? static_cast<double>(common) / static_cast<double>(either) : 0.0;
}

}  // namespace megacpt
