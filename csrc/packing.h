// SPDX-License-Identifier: Apache-2.0
// Documents into rows of a fixed number of inputs, best fit decreasing. Plain C++17.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "file_array.h"

namespace megacpt {

// The bounds of every document in the token stream, as a .idx file states them.
class DocumentStarts {
 public:
  DocumentStarts(FileArray<std::int64_t> offsets, FileArray<std::int64_t> bounds,
                 std::int64_t item_bytes, std::int64_t num_tokens)
      : offsets_(offsets), bounds_(bounds), item_bytes_(item_bytes), num_tokens_(num_tokens) {
    require(bounds.size() >= 1 && item_bytes >= 1 && num_tokens >= 0,
            "there must be document bounds, bytes a token and tokens");
  }

  std::int64_t num_documents() const { return bounds_.size() - 1; }
  std::int64_t num_tokens() const { return num_tokens_; }

  // First token of a document; of the number of documents, the number of tokens.
  std::int64_t operator[](std::int64_t document) const {
    const std::int64_t sequence = bounds_[document];
    if (sequence == offsets_.size()) return num_tokens_;
    if (sequence < 0 || sequence > offsets_.size()) fail(document, "sequence", sequence);
    const std::int64_t token = offsets_[sequence] / item_bytes_;
    if (token < 0 || token > num_tokens_) fail(document, "token", token);
    return token;
  }

 private:
  [[noreturn]] static void fail(std::int64_t document, const char* what, std::int64_t value) {
    throw std::invalid_argument("document " + std::to_string(document) + " begins at " + what +
                                " " + std::to_string(value) + ", which is not there");
  }

  FileArray<std::int64_t> offsets_;
  FileArray<std::int64_t> bounds_;
  std::int64_t item_bytes_;
  std::int64_t num_tokens_;
};

// The smallest member at or above a number, for members 0..size-1, in a few steps: a bit a member,
// and above it levels of a bit a word that is not empty.
class OrderedSet {
 public:
  explicit OrderedSet(std::int64_t size) {
    do {
      size = (size + 63) / 64;
      levels_.emplace_back(static_cast<std::size_t>(size), 0);
    } while (size > 1);
  }

  void insert(std::int64_t member) {
    for (auto& words : levels_) {
      words[static_cast<std::size_t>(member >> 6)] |= std::uint64_t{1} << (member & 63);
      member >>= 6;
    }
  }

  void erase(std::int64_t member) {
    for (auto& words : levels_) {
      auto& word = words[static_cast<std::size_t>(member >> 6)];
      word &= ~(std::uint64_t{1} << (member & 63));
      if (word != 0) return;
      member >>= 6;
    }
  }

  // -1 where there is none.
  std::int64_t at_or_above(std::int64_t number) const {
    for (std::size_t level = 0; level < levels_.size(); ++level) {
      const auto& words = levels_[level];
      const auto at = static_cast<std::size_t>(number >> 6);
      if (at >= words.size()) return -1;
      const std::uint64_t rest = words[at] >> (number & 63);
      if (rest != 0) return descend(level, number + __builtin_ctzll(rest));
      number = (number >> 6) + 1;  // the words after this one, a level up
    }
    return -1;
  }

 private:
  std::int64_t descend(std::size_t level, std::int64_t member) const {
    for (; level > 0; --level) {
      const std::uint64_t word = levels_[level - 1][static_cast<std::size_t>(member)];
      member = (member << 6) + __builtin_ctzll(word);
    }
    return member;
  }

  std::vector<std::vector<std::uint64_t>> levels_;
};

// A document of n tokens has n - 1 inputs, each with the token after it as its target. One with
// more than `sequence_length` inputs is cut into pieces of that many, each a row, and a rest; the
// rests and the other documents go, longest first, into the row with the least room that is
// enough. Ties go by the order of the text, so the result is a function of the lengths alone.
// Memory: 16 bytes a piece and 28 a row.
class Packing {
 public:
  static constexpr std::int64_t kLongestRow = std::int64_t{1} << 24;

  Packing(const DocumentStarts& starts, std::int64_t sequence_length)
      : sequence_length_(sequence_length) {
    require(sequence_length >= 1 && sequence_length <= kLongestRow,
            "sequence_length must be in 1..2^24, got " + std::to_string(sequence_length));
    count_pieces(starts);
    require(num_pieces() < kNone,
            "there must be fewer than 2^32-1 pieces, got " + std::to_string(num_pieces()));
    assign_rows();
    gather_rows(starts);
  }

  std::int64_t num_rows() const { return static_cast<std::int64_t>(row_ends.size()) - 1; }
  std::int64_t num_pieces() const { return first_longer_.back(); }

  std::int64_t num_cut = 0;
  std::int64_t num_left_out = 0;  // documents without a target: of one token or none
  // Pieces row_ends[k] .. row_ends[k+1]-1 make row k, in the order of the text.
  std::vector<std::int64_t> row_ends;
  std::vector<std::int64_t> starts;
  std::vector<std::int32_t> inputs;

 private:
  static constexpr std::uint32_t kNone = std::numeric_limits<std::uint32_t>::max();

  // Calls visit(number of inputs, first token, last token) for every document.
  template <typename Visit>
  static void for_each_document(const DocumentStarts& starts, Visit visit) {
    std::int64_t start = starts[0];
    for (std::int64_t document = 0; document < starts.num_documents(); ++document) {
      const std::int64_t stop = starts[document + 1];
      require(stop >= start, "a document ends before it begins");
      visit(stop - start - 1, start, stop - 1);
      start = stop;
    }
  }

  // Pieces of n inputs have the places first_longer(n) .. first_longer(n - 1) - 1 when they are
  // sorted longest first: as many are longer than n.
  std::int64_t& first_longer(std::int64_t inputs_of_piece) {
    return first_longer_[static_cast<std::size_t>(sequence_length_ - inputs_of_piece)];
  }

  void count_pieces(const DocumentStarts& document_starts) {
    first_longer_.assign(static_cast<std::size_t>(sequence_length_) + 1, 0);
    for_each_document(document_starts, [this](std::int64_t total, std::int64_t, std::int64_t) {
      num_left_out += total <= 0 ? 1 : 0;
      num_cut += total > sequence_length_ ? 1 : 0;
      if (total <= 0) return;
      first_longer(sequence_length_ - 1) += total / sequence_length_;
      if (total % sequence_length_ != 0) ++first_longer(total % sequence_length_ - 1);
    });
    for (std::size_t n = 1; n < first_longer_.size(); ++n) first_longer_[n] += first_longer_[n - 1];
  }

  // Rows with the same room are a list; the one that came last is used first.
  void assign_rows() {
    std::vector<std::uint32_t> with_room(static_cast<std::size_t>(sequence_length_) + 1, kNone);
    std::vector<std::uint32_t> next;
    OrderedSet rooms(sequence_length_ + 1);
    row_of_.resize(static_cast<std::size_t>(num_pieces()));
    for (std::int64_t size = sequence_length_; size >= 1; --size)
      for (std::int64_t n = first_longer(size); n < first_longer(size - 1); ++n) {
        std::int64_t room = rooms.at_or_above(size);
        std::uint32_t row;
        if (room < 0) {
          row = static_cast<std::uint32_t>(next.size());
          next.push_back(kNone);
          room = sequence_length_;
        } else {
          row = with_room[static_cast<std::size_t>(room)];
          with_room[static_cast<std::size_t>(room)] = next[row];
          if (next[row] == kNone) rooms.erase(room);
        }
        row_of_[static_cast<std::size_t>(n)] = row;
        if (room == size) continue;
        auto& list = with_room[static_cast<std::size_t>(room - size)];
        if (list == kNone) rooms.insert(room - size);
        next[row] = list;
        list = row;
      }
    row_ends.assign(next.size() + 1, 0);
  }

  // The text once more, from its start: each piece has the next place of its length, each place
  // its row, and each row gets its pieces in the order of the text.
  void gather_rows(const DocumentStarts& document_starts) {
    for (std::uint32_t row : row_of_) ++row_ends[row + 1];
    for (std::size_t k = 1; k < row_ends.size(); ++k) row_ends[k] += row_ends[k - 1];
    starts.resize(row_of_.size());
    inputs.resize(row_of_.size());
    auto next_place = first_longer_;
    auto next_in_row = row_ends;
    for_each_document(document_starts, [&](std::int64_t total, std::int64_t, std::int64_t last) {
      for (std::int64_t rest = total; rest > 0; rest -= sequence_length_) {
        const std::int64_t size = std::min(rest, sequence_length_);
        auto& place = next_place[static_cast<std::size_t>(sequence_length_ - size)];
        require(place < first_longer(size - 1), "the index changed while it was read");
        const std::uint32_t row = row_of_[static_cast<std::size_t>(place++)];
        const auto at = static_cast<std::size_t>(next_in_row[row]++);
        starts[at] = last - rest;
        inputs[at] = static_cast<std::int32_t>(size);
      }
    });
    std::vector<std::uint32_t>().swap(row_of_);
  }

  std::int64_t sequence_length_;
  std::vector<std::int64_t> first_longer_;
  std::vector<std::uint32_t> row_of_;
};

// The arrays of a .pack file, of which nothing is believed before a row's checksum fits.
class PackedRows {
 public:
  struct Row {
    std::vector<std::int64_t> starts;
    std::vector<std::int64_t> stops;
  };

  PackedRows(FileArray<std::int64_t> row_ends, FileArray<std::uint64_t> checksums,
             FileArray<std::int64_t> starts, FileArray<std::int32_t> inputs)
      : row_ends_(row_ends), checksums_(checksums), starts_(starts), inputs_(inputs) {
    require(row_ends.size() == checksums.size() + 1 && starts.size() == inputs.size(),
            "the arrays have lengths that contradict each other");
  }

  // Any change of one number of a row, or of where it lies, changes this: every step is a
  // bijection of what came before, and of the number (FNV-1a, on words).
  std::uint64_t checksum(std::int64_t row, std::int64_t first, std::int64_t end) const {
    std::uint64_t hash = 0xCBF29CE484222325;
    const auto add = [&hash](std::int64_t number) {
      hash = (hash ^ static_cast<std::uint64_t>(number)) * 0x100000001B3;
    };
    add(row);
    add(first);
    add(end);
    for (std::int64_t n = first; n < end; ++n) {
      add(starts_[n]);
      add(inputs_[n]);
    }
    return hash;
  }

  // Tokens of each piece, first and one past the last target.
  Row row(std::int64_t row, std::int64_t sequence_length, std::int64_t num_tokens) const {
    if (row < 0 || row >= checksums_.size())
      throw std::out_of_range("row " + std::to_string(row) + " of " +
                              std::to_string(checksums_.size()));
    const std::int64_t first = row_ends_[row];
    const std::int64_t end = row_ends_[row + 1];
    require(first >= 0 && first < end && end <= starts_.size() &&
                checksum(row, first, end) == checksums_[row],
            "a row is not what was written");
    Row pieces;
    std::int64_t room = sequence_length;
    for (std::int64_t n = first; n < end; ++n) {
      const std::int64_t start = starts_[n];
      const std::int64_t inputs = inputs_[n];
      require(inputs >= 1 && inputs <= room && start >= 0 && start < num_tokens - inputs,
              "a row does not fit its length or its shard");
      room -= inputs;
      pieces.starts.push_back(start);
      pieces.stops.push_back(start + inputs + 1);
    }
    return pieces;
  }

 private:
  FileArray<std::int64_t> row_ends_;
  FileArray<std::uint64_t> checksums_;
  FileArray<std::int64_t> starts_;
  FileArray<std::int32_t> inputs_;
};

}  // namespace megacpt
