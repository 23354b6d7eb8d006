// SPDX-License-Identifier: Apache-2.0
// The tokens of a shard, all documents laid end to end, and where its documents begin. Plain C++17.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "file_array.h"

// Widening ids is most of the work of a batch; 32-byte vectors do it in two thirds of the time.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__)
#define MEGACPT_WIDE_VECTORS __attribute__((target_clones("avx2", "default")))
#else
#define MEGACPT_WIDE_VECTORS
#endif

namespace megacpt {

namespace loops {

#define MEGACPT_TOKEN_LOOPS(T)                                                                 \
  MEGACPT_WIDE_VECTORS inline void widen(const T* ids, std::int64_t count, std::int64_t* out) { \
    for (std::int64_t n = 0; n < count; ++n) out[n] = ids[n];                                  \
  }                                                                                            \
  MEGACPT_WIDE_VECTORS inline std::uint64_t largest(const T* ids, std::int64_t count) {        \
    std::make_unsigned_t<T> most = 0; /* a negative id becomes the largest of all */           \
    for (std::int64_t n = 0; n < count; ++n)                                                   \
      most = std::max(most, static_cast<std::make_unsigned_t<T>>(ids[n]));                     \
    return most;                                                                               \
  }
MEGACPT_TOKEN_LOOPS(std::uint8_t)
MEGACPT_TOKEN_LOOPS(std::int8_t)
MEGACPT_TOKEN_LOOPS(std::int16_t)
MEGACPT_TOKEN_LOOPS(std::uint16_t)
MEGACPT_TOKEN_LOOPS(std::int32_t)
MEGACPT_TOKEN_LOOPS(std::int64_t)
#undef MEGACPT_TOKEN_LOOPS

MEGACPT_WIDE_VECTORS inline void count_up(std::int64_t* out, std::int64_t count) {
  for (std::int64_t n = 0; n < count; ++n) out[n] = n;
}

}  // namespace loops

enum class TokenType { kUint8, kInt8, kInt16, kUint16, kInt32, kInt64 };

// Memory that others own: the mapped .bin and two arrays of the mapped .idx. Nothing in them is
// trusted: every id and every place read from the index is checked before it is used.
class TokenStream {
 public:
  // Ids must be in 0..id_limit-1. Sequence q begins at byte offsets[q] of the tokens; document d
  // has sequences bounds[d]..bounds[d+1]-1.
  TokenStream(TokenType type, const void* tokens, std::int64_t num_tokens, std::int64_t id_limit,
              FileArray<std::int64_t> offsets, FileArray<std::int64_t> bounds)
      : type_(type),
        tokens_(tokens),
        num_tokens_(num_tokens),
        id_limit_(id_limit),
        offsets_(offsets),
        bounds_(bounds) {}

  // Whether start..stop is within the stream and all its ids are within the vocabulary.
  bool is_sound(std::int64_t start, std::int64_t stop) const {
    if (start < 0 || start > stop || stop > num_tokens_) return false;
    const std::uint64_t limit = std::min(static_cast<std::uint64_t>(id_limit_), beyond_type());
    return visit([&](const auto* ids) { return loops::largest(ids + start, stop - start); }) < limit;
  }

  // Let the system read the part of a span within the stream in the background, if it is mapped.
  void will_need(std::int64_t start, std::int64_t stop) const {
    start = std::max<std::int64_t>(start, 0);
    stop = std::min(stop, num_tokens_);
    if (start >= stop) return;
    static const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
    const auto first = reinterpret_cast<std::uintptr_t>(tokens_);
    const auto begin = (first + static_cast<std::uintptr_t>(start * item_size())) / page * page;
    const auto end = first + static_cast<std::uintptr_t>(stop * item_size());
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_WILLNEED);
  }

  // Write the ids of a sound span.
  void copy(std::int64_t start, std::int64_t stop, std::int64_t* out) const {
    visit([&](const auto* ids) {
      loops::widen(ids + start, stop - start, out);
      return std::uint64_t{0};
    });
  }

  // Append the tokens in start..stop-1 with which documents begin, each once, rising; false if the
  // index is broken where it was read. O(log documents) and as many as there are.
  bool document_starts(std::int64_t start, std::int64_t stop,
                       std::vector<std::int64_t>& found) const {
    std::int64_t low = 0, high = bounds_.size() - 1;
    while (low < high) {
      const std::int64_t middle = low + (high - low) / 2;
      if (first_token(middle) < start) low = middle + 1;
      else high = middle;
    }
    std::int64_t latest = -1;
    for (std::int64_t document = low; document < bounds_.size() - 1; ++document) {
      const std::int64_t token = first_token(document);
      if (token < start || token < latest) return false;
      if (token >= stop) break;
      if (token > latest) found.push_back(token);
      latest = token;
    }
    return low == 0 || first_token(low - 1) >= 0;
  }

 private:
  // -1 where the index is broken.
  std::int64_t first_token(std::int64_t document) const {
    const std::int64_t sequence = bounds_[document];
    if (sequence == offsets_.size()) return num_tokens_;
    if (sequence < 0 || sequence > offsets_.size()) return -1;
    const std::int64_t offset = offsets_[sequence];
    if (offset < 0 || offset % item_size() != 0 || offset / item_size() > num_tokens_) return -1;
    return offset / item_size();
  }

  std::int64_t item_size() const {
    return static_cast<std::int64_t>(visit([](const auto* ids) { return sizeof *ids; }));
  }

  // One more than the largest id of the type: what a negative id does not stay below when
  // `largest` has made it positive.
  std::uint64_t beyond_type() const {
    return visit([](const auto* ids) {
      using Id = std::remove_const_t<std::remove_reference_t<decltype(*ids)>>;
      return static_cast<std::uint64_t>(std::numeric_limits<Id>::max()) + 1;
    });
  }

  template <typename Function>
  std::uint64_t visit(const Function& function) const {
    switch (type_) {
      case TokenType::kUint8: return function(static_cast<const std::uint8_t*>(tokens_));
      case TokenType::kInt8: return function(static_cast<const std::int8_t*>(tokens_));
      case TokenType::kInt16: return function(static_cast<const std::int16_t*>(tokens_));
      case TokenType::kUint16: return function(static_cast<const std::uint16_t*>(tokens_));
      case TokenType::kInt32: return function(static_cast<const std::int32_t*>(tokens_));
      case TokenType::kInt64: break;
    }
    return function(static_cast<const std::int64_t*>(tokens_));
  }

  TokenType type_;
  const void* tokens_;
  std::int64_t num_tokens_;
  std::int64_t id_limit_;
  FileArray<std::int64_t> offsets_;
  FileArray<std::int64_t> bounds_;
};

}  // namespace megacpt
