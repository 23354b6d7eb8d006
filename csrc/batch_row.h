// SPDX-License-Identifier: Apache-2.0
// One row of a batch from pieces of a token stream. Plain C++17.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "token_stream.h"

namespace megacpt {

// Where a row is written: S places each.
struct BatchRow {
  std::int64_t* tokens;
  std::int64_t* labels;
  float* loss_mask;
  std::int64_t* positions;
};

// Tokens starts[i]..stops[i]-1 for each i. A piece of n+1 tokens gives n inputs and n targets of
// its own, unless the pieces are joined to one text, which has one token that is a target only.
struct RowPieces {
  const TokenStream* stream;
  const std::int64_t* starts;
  const std::int64_t* stops;
  std::size_t count;
  bool joined;
};

inline std::int64_t num_inputs(const RowPieces& pieces) {
  std::int64_t tokens = 0;
  for (std::size_t i = 0; i < pieces.count; ++i) tokens += pieces.stops[i] - pieces.starts[i];
  if (!pieces.joined) return tokens - static_cast<std::int64_t>(pieces.count);
  return std::max<std::int64_t>(tokens - 1, 0);
}

// Ask for all pieces before the first is read: a disk serves many at once.
inline void will_need(const RowPieces& pieces) {
  for (std::size_t i = 0; i < pieces.count; ++i)
    pieces.stream->will_need(pieces.starts[i], pieces.stops[i]);
}

inline bool is_sound(const RowPieces& pieces, std::int64_t length) {
  for (std::size_t i = 0; i < pieces.count; ++i) {
    if (pieces.starts[i] >= pieces.stops[i]) return false;
    if (!pieces.stream->is_sound(pieces.starts[i], pieces.stops[i])) return false;
  }
  return num_inputs(pieces) <= length;
}

// Of sound pieces. What they do not fill is padding: token 0, masked.
inline void fill_row(const RowPieces& pieces, std::int64_t length, const BatchRow& row) {
  std::int64_t at = 0;
  for (std::size_t i = 0; i < pieces.count; ++i) {
    const std::int64_t start = pieces.starts[i], stop = pieces.stops[i];
    const bool last = !pieces.joined || i + 1 == pieces.count;
    const bool first = !pieces.joined || i == 0;
    pieces.stream->copy(start, stop - last, row.tokens + at);
    pieces.stream->copy(start + first, stop, row.labels + at - !first);
    at += stop - start - (pieces.joined ? 0 : 1);
  }
  const std::int64_t inputs = num_inputs(pieces);
  std::fill(row.tokens + inputs, row.tokens + length, 0);
  std::fill(row.labels + inputs, row.labels + length, 0);
  std::fill(row.loss_mask, row.loss_mask + inputs, 1.0f);
  std::fill(row.loss_mask + inputs, row.loss_mask + length, 0.0f);
  loops::count_up(row.positions, length);
}

// 0, the inputs at which a document or a piece begins, the start of the padding, S: rising
// strictly. False if the index is broken.
inline bool find_bounds(const RowPieces& pieces, std::int64_t length,
                        std::vector<std::int32_t>& bounds) {
  std::vector<std::int64_t> starts;
  const std::int64_t inputs = num_inputs(pieces);
  const auto add = [&](std::int64_t place) {
    if (place > bounds.back() && place < length) bounds.push_back(static_cast<std::int32_t>(place));
  };
  bounds.assign(1, 0);
  std::int64_t at = 0;
  for (std::size_t i = 0; i < pieces.count; ++i) {
    const std::int64_t start = pieces.starts[i], stop = pieces.stops[i];
    if (at < inputs) add(at);
    starts.clear();
    if (!pieces.stream->document_starts(start + 1, stop, starts)) return false;
    for (const std::int64_t token : starts)
      if (at + token - start < inputs) add(at + token - start);
    at += stop - start - (pieces.joined ? 0 : 1);
  }
  add(inputs);
  bounds.push_back(static_cast<std::int32_t>(length));
  return true;
}

// Positions that start again at each bound.
inline void restart_positions(const std::vector<std::int32_t>& bounds, std::int64_t* positions) {
  for (std::size_t i = 0; i + 1 < bounds.size(); ++i)
    loops::count_up(positions + bounds[i], bounds[i + 1] - bounds[i]);
}

}  // namespace megacpt
