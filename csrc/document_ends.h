// SPDX-License-Identifier: Apache-2.0
// Ids of texts to tokens of documents as they lie in a shard. Plain C++17.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "file_array.h"

namespace megacpt {

// Text n is ids[bounds[n]] .. ids[bounds[n + 1] - 1]; with an EOS id it gets one more where it does
// not end with it, and without one texts of no ids are no documents.
class DocumentEnds {
 public:
  DocumentEnds(FileArray<std::uint32_t> ids, FileArray<std::int64_t> bounds,
               std::optional<std::uint32_t> eos_id)
      : ids_(ids), bounds_(bounds), eos_id_(eos_id) {
    require(bounds.size() >= 1 && bounds[0] == 0 && bounds[bounds.size() - 1] == ids.size(),
            "bounds must go from 0 to the number of ids");
    // With both ends as they should be, bounds that never fall stay inside.
    for (std::int64_t text = 0; text < num_texts(); ++text)
      require(bounds[text] <= bounds[text + 1], "a text ends before it begins");
    lengths.reserve(static_cast<std::size_t>(num_texts()));
    for (std::int64_t text = 0; text < num_texts(); ++text) {
      const std::int64_t count = bounds[text + 1] - bounds[text];
      require(count < std::numeric_limits<std::int32_t>::max(), "a text has 2^31-1 ids or more");
      const std::int64_t length = count + (lacks_eos(text) ? 1 : 0);
      num_tokens += length;
      if (length > 0) lengths.push_back(static_cast<std::int32_t>(length));
    }
  }

  // Writes `num_tokens` tokens and returns the largest of the ids (0 where there are none).
  template <typename T>
  std::uint32_t fill(T* tokens) const {
    std::uint32_t largest = 0;
    for (std::int64_t text = 0; text < num_texts(); ++text) {
      const std::int64_t start = bounds_[text];
      const std::int64_t count = bounds_[text + 1] - start;
      for (std::int64_t n = 0; n < count; ++n) {
        const std::uint32_t id = ids_[start + n];
        largest = std::max(largest, id);
        tokens[n] = static_cast<T>(id);
      }
      tokens += count;
      if (lacks_eos(text)) *tokens++ = static_cast<T>(*eos_id_);
    }
    return largest;
  }

  std::int64_t num_tokens = 0;
  std::vector<std::int32_t> lengths;  // of the documents

 private:
  std::int64_t num_texts() const { return bounds_.size() - 1; }

  // Called where the bounds of the text are known to be inside.
  bool lacks_eos(std::int64_t text) const {
    if (!eos_id_) return false;
    const std::int64_t stop = bounds_[text + 1];
    return stop == bounds_[text] || ids_[stop - 1] != *eos_id_;
  }

  FileArray<std::uint32_t> ids_;
  FileArray<std::int64_t> bounds_;
  std::optional<std::uint32_t> eos_id_;
};

}  // namespace megacpt
