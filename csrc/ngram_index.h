// SPDX-License-Identifier: Apache-2.0
// Where texts have windows of words that other texts have. Plain C++17.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "file_array.h"
#include "word_hash.h"
#include "words.h"

namespace megacpt {

// Numbers by 64-bit hashes, in one array: a hash lies at the first free place from its own on.
class HashTable {
 public:
  static constexpr std::int64_t kNone = -1;

  void reserve(std::size_t count) {
    std::size_t size = 16;
    while (size < 2 * count) size *= 2;
    entries_.assign(size, {0, kNone});
  }

  // The number of a hash, which is `number` if it is new.
  std::int64_t add(std::uint64_t hash, std::int64_t number) {
    Entry& entry = entries_[place(hash)];
    if (entry.number == kNone) entry = {hash, number};
    return entry.number;
  }

  std::int64_t find(std::uint64_t hash) const { return entries_[place(hash)].number; }

 private:
  struct Entry {
    std::uint64_t hash;
    std::int64_t number;
  };

  std::size_t place(std::uint64_t hash) const {
    const std::size_t mask = entries_.size() - 1;
    std::size_t at = hash & mask;
    while (entries_[at].number != kNone && entries_[at].hash != hash) at = (at + 1) & mask;
    return at;
  }

  std::vector<Entry> entries_;
};

// Tells fast of nearly every hash that is not in a set that it is not (Bloom 1970): three bits of
// one word for each.
class BloomFilter {
 public:
  void reserve(std::size_t count) {
    std::size_t size = 64;
    while (size * 64 < kBitsEach * count) size *= 2;
    words_.assign(size, 0);
  }

  void add(std::uint64_t hash) { words_[hash & (words_.size() - 1)] |= bits(hash); }

  bool may_have(std::uint64_t hash) const {
    return (bits(hash) & ~words_[hash & (words_.size() - 1)]) == 0;
  }

 private:
  static constexpr std::size_t kBitsEach = 16;

  static std::uint64_t bits(std::uint64_t hash) {
    return std::uint64_t{1} << (hash >> 58) | std::uint64_t{1} << (hash >> 52 & 63) |
           std::uint64_t{1} << (hash >> 46 & 63);
  }

  std::vector<std::uint64_t> words_;
};

struct NgramHit {
  std::int64_t document, word, window;
  std::int64_t start, stop;  // code points
};

// Windows of words, of whatever lengths. At every word of a text one look-up says whether a window
// begins with the words there, as many as the shortest window has; where it may, the windows of
// each length are looked up.
class NgramIndex {
 public:
  // `windows`: rows of (text, first word, number of words).
  NgramIndex(const std::vector<Text>& texts, const FileArray<std::int64_t>& windows) {
    const std::int64_t count = windows.size() / 3;
    for (std::int64_t row = 0; row < count; ++row) {
      require(windows[3 * row + 2] >= 1, "a window must have a word or more");
      lengths_.push_back(static_cast<std::size_t>(windows[3 * row + 2]));
    }
    std::sort(lengths_.begin(), lengths_.end());
    lengths_.erase(std::unique(lengths_.begin(), lengths_.end()), lengths_.end());
    table_.reserve(static_cast<std::size_t>(count));
    beginnings_.reserve(static_cast<std::size_t>(count));
    first_equal_.resize(static_cast<std::size_t>(count));
    add_all(texts, windows);
  }

  // Of each window, the first one that has the same words.
  const std::vector<std::int64_t>& first_equal() const { return first_equal_; }

  // In the order of documents, words and lengths.
  void find(const std::vector<Text>& texts, std::vector<NgramHit>& hits) const {
    if (lengths_.empty()) return;
    const RollingHash rolling(lengths_.front());
    Words words;
    std::vector<std::uint64_t> hashes;
    for (std::size_t document = 0; document < texts.size(); ++document) {
      words.read(texts[document]);
      hash_words(words, hashes);
      rolling.each(hashes.data(), hashes.size(), [&](std::size_t at, std::uint64_t beginning) {
        if (!beginnings_.may_have(beginning)) return;
        for (const std::size_t length : lengths_) {
          if (length > hashes.size() - at) break;
          const std::int64_t window = table_.find(row_hash(&hashes[at], length));
          if (window == HashTable::kNone) continue;
          hits.push_back({static_cast<std::int64_t>(document), static_cast<std::int64_t>(at),
                          window, static_cast<std::int64_t>(words.first(at)),
                          static_cast<std::int64_t>(words.end(at + length - 1))});
        }
      });
    }
  }

 private:
  // Windows in the order of their texts, so that each text is read once; equal ones take the number
  // of the first in their own order.
  void add_all(const std::vector<Text>& texts, const FileArray<std::int64_t>& windows) {
    std::vector<std::int64_t> order(first_equal_.size());
    for (std::size_t row = 0; row < order.size(); ++row) order[row] = static_cast<std::int64_t>(row);
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
      return windows[3 * a] < windows[3 * b];
    });
    std::vector<std::uint64_t> rows(order.size()), hashes;
    Words words;
    std::int64_t latest = -1;
    for (const std::int64_t row : order) {
      const std::int64_t text = windows[3 * row], first = windows[3 * row + 1];
      const std::int64_t length = windows[3 * row + 2];
      require(text >= 0 && text < static_cast<std::int64_t>(texts.size()),
              "a window is of text " + std::to_string(text) + ", which is not there");
      if (text != latest) {
        words.read(texts[static_cast<std::size_t>(text)]);
        hash_words(words, hashes);
        latest = text;
      }
      const auto size = static_cast<std::int64_t>(hashes.size());
      require(first >= 0 && first < size && length <= size - first,
              "a window is beyond the " + std::to_string(size) + " words of text " +
                  std::to_string(text));
      const std::uint64_t* begin = &hashes[static_cast<std::size_t>(first)];
      rows[static_cast<std::size_t>(row)] = row_hash(begin, static_cast<std::size_t>(length));
      beginnings_.add(row_hash(begin, lengths_.front()));
    }
    for (std::size_t row = 0; row < rows.size(); ++row)
      first_equal_[row] = table_.add(rows[row], static_cast<std::int64_t>(row));
  }

  std::vector<std::size_t> lengths_;
  HashTable table_;
  BloomFilter beginnings_;
  std::vector<std::int64_t> first_equal_;
};

}  // namespace megacpt
