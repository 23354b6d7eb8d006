// SPDX-License-Identifier: Apache-2.0
// Text as words that do not differ by case, punctuation and spaces: megacpt/curate/words.py has the
// rules. Plain C++17.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>
#include <vector>

#include "file_array.h"
#include "unicode_table.h"

namespace megacpt {

// A Python string as it lies in memory: code points of 1, 2 or 4 bytes.
struct Text {
  const void* data;
  std::size_t length;
  int width;
  bool is_ascii;
};

// What every code point is to words, in blocks of which equal ones are held once.
class UnicodeTable {
 public:
  enum Kind : std::uint8_t { kBetween, kPart, kMark, kWhole };

  struct Entry {
    std::int32_t distance;  // to the code point that stands for it
    Kind kind;
  };

  static const UnicodeTable& get() {
    static const UnicodeTable table;
    return table;
  }

  Entry operator[](std::uint32_t code) const {
    const std::uint32_t packed = entries_[blocks_[code >> kShift] + (code & kMask)];
    return {static_cast<std::int32_t>(packed) >> 2, static_cast<Kind>(packed & 3)};
  }

 private:
  static constexpr std::uint32_t kShift = 7, kSize = 1u << kShift, kMask = kSize - 1;
  static constexpr std::uint32_t kNumCodes = 0x110000;

  UnicodeTable() {
    std::vector<std::uint32_t> block;
    const std::int32_t* run = kUnicodeRuns;
    while (run != std::end(kUnicodeRuns)) {
      const std::int32_t count = *run++, about = *run++, distance = *run++;
      for (std::int32_t n = 0; n < count; ++n) {
        const std::int32_t own = (about & 4) && n % 2 ? 0 : distance;
        block.push_back(static_cast<std::uint32_t>(own) << 2 | (about & 3u));
        if (block.size() < kSize) continue;
        add(block);
        block.clear();
      }
    }
  }

  void add(const std::vector<std::uint32_t>& block) {
    std::uint32_t start = 0;
    while (start < entries_.size() &&
           std::memcmp(&entries_[start], block.data(), kSize * sizeof block[0]) != 0)
      start += kSize;
    if (start == entries_.size()) entries_.insert(entries_.end(), block.begin(), block.end());
    blocks_[num_blocks_++] = start;
  }

  std::uint32_t blocks_[kNumCodes / kSize] = {};
  std::uint32_t num_blocks_ = 0;
  std::vector<std::uint32_t> entries_;
};

// Memory that is not filled before it is written, and kept from one document to the next.
template <typename T>
class Room {
 public:
  T* get(std::size_t size) {
    if (size > size_) {
      size_ = size + size / 2;
      memory_.reset(new T[size_]);
    }
    return memory_.get();
  }

 private:
  std::unique_ptr<T[]> memory_;
  std::size_t size_ = 0;
};

// The words of one text after another. Most text is of ASCII: 64 code points of it are looked at
// together, as the bits of one number that say which belong to a word.
class Words {
 public:
  // Where a word is: its bytes must be counted in 32 bits, four a character at most.
  using Place = std::uint32_t;
  static constexpr std::size_t kMostCharacters = (std::size_t{1} << 30) - 64;

  // Bytes that may be read beyond the last word.
  static constexpr std::size_t kSpare = 64;

  std::size_t size() const { return num_stops_; }

  // A word's folded UTF-8 lies at bytes()[start(n)..stop(n)-1].
  const char* bytes() const { return bytes_; }
  std::size_t start(std::size_t n) const { return starts_[n]; }
  std::size_t stop(std::size_t n) const { return stops_[n]; }

  // Where it stands in the text, in code points.
  std::size_t first(std::size_t n) const { return is_ascii_ ? starts_[n] : firsts_[n]; }
  std::size_t end(std::size_t n) const { return is_ascii_ ? stops_[n] : ends_[n]; }

  void read(const Text& text) {
    require(text.length <= kMostCharacters, "a text has more than 2^30 characters");
    const std::size_t most = text.length + 1;
    starts_ = starts_room_.get(most);
    stops_ = stops_room_.get(most);
    bytes_ = bytes_room_.get(text.length * (text.is_ascii ? 1 : 4) + 2 * kBlock + kSpare);
    is_ascii_ = text.is_ascii;
    if (!is_ascii_) {
      firsts_ = firsts_room_.get(most);
      ends_ = ends_room_.get(most);
    }
    num_starts_ = num_stops_ = used_ = 0;
    open_ = kNone;
    if (text.width == 1) read_all(static_cast<const std::uint8_t*>(text.data), text.length);
    else if (text.width == 2) read_all(static_cast<const std::uint16_t*>(text.data), text.length);
    else read_all(static_cast<const std::uint32_t*>(text.data), text.length);
  }

 private:
  static constexpr std::size_t kBlock = 64;
  enum Open : std::uint8_t { kNone, kRun, kWholeWord };

  template <typename Code>
  void read_all(const Code* codes, std::size_t length) {
    std::size_t at = 0;
    for (; at + kBlock <= length; at += kBlock) {
      if (is_ascii_ || all_ascii(codes + at, kBlock)) read_ascii(codes + at, at, kBlock);
      else read_any(codes + at, at, kBlock);
    }
    const std::size_t left = length - at;
    if (is_ascii_ || all_ascii(codes + at, left)) {
      Code last[kBlock] = {};
      std::memcpy(last, codes + at, left * sizeof(Code));
      read_ascii(last, at, left);
    } else {
      read_any(codes + at, at, left);
    }
    if (open_ != kNone) stop_word(used_, length);
  }

  template <typename Code>
  static bool all_ascii(const Code* codes, std::size_t count) {
    std::uint32_t all = 0;
    for (std::size_t n = 0; n < count; ++n) all |= codes[n];
    return all < 0x80;
  }

  // 64 code points, of which those from `count` on are 0.
  template <typename Code>
  void read_ascii(const Code* codes, std::size_t at, std::size_t count) {
    unsigned char block[kBlock];
    for (std::size_t n = 0; n < kBlock; ++n) block[n] = static_cast<unsigned char>(codes[n]);
    const std::uint64_t part = fold(block, bytes_ + used_);
    if (open_ == kWholeWord) stop_word(used_, at);
    const std::uint64_t after = part << 1 | (open_ == kRun ? 1 : 0);
    num_starts_ = list(part & ~after, at, starts_, firsts_, num_starts_);
    num_stops_ = list(after & ~part, at, stops_, ends_, num_stops_);
    used_ += count;
    open_ = num_starts_ > num_stops_ ? kRun : kNone;
  }

  // The places of the bits that are set.
  std::size_t list(std::uint64_t bits, std::size_t at, Place* places, Place* codes,
                   std::size_t count) const {
    const auto place = static_cast<Place>(used_), code = static_cast<Place>(at);
    if (is_ascii_) {
      for (; bits != 0; bits &= bits - 1) places[count++] = place + lowest(bits);
      return count;
    }
    for (; bits != 0; bits &= bits - 1) {
      places[count] = place + lowest(bits);
      codes[count++] = code + lowest(bits);
    }
    return count;
  }

  static Place lowest(std::uint64_t bits) { return static_cast<Place>(__builtin_ctzll(bits)); }

  // Write 64 ASCII characters with small letters, and return which are letters or digits. Eight at
  // a time: a byte's highest bit tells whether it is beyond the number that was added to it.
  static std::uint64_t fold(const unsigned char* block, char* out) {
    constexpr std::uint64_t kOnes = 0x0101010101010101, kHigh = 0x80 * kOnes;
    std::uint64_t bits = 0;
    for (unsigned n = 0; n < kBlock; n += 8) {
      std::uint64_t eight = 0;
      for (unsigned k = 0; k < 8; ++k) eight |= std::uint64_t{block[n + k]} << (8 * k);
      const std::uint64_t small = eight | 0x20 * kOnes;
      const std::uint64_t letter = (small + (0x80 - 'a') * kOnes) & ~(small + (0x7F - 'z') * kOnes);
      const std::uint64_t digit = (eight + (0x80 - '0') * kOnes) & ~(eight + (0x7F - '9') * kOnes);
      const std::uint64_t folded = eight | (letter & kHigh) >> 2;
      for (unsigned k = 0; k < 8; ++k) out[n + k] = static_cast<char>(folded >> (8 * k));
      bits |= ((((letter | digit) & kHigh) >> 7) * 0x0102040810204080 >> 56) << n;
    }
    return bits;
  }

  template <typename Code>
  void read_any(const Code* codes, std::size_t at, std::size_t count) {
    const UnicodeTable& table = UnicodeTable::get();
    for (std::size_t n = 0; n < count; ++n) {
      const std::uint32_t code = codes[n];
      const UnicodeTable::Entry about = table[code];
      switch (about.kind) {
        case UnicodeTable::kBetween:
          if (open_ != kNone) stop_word(used_, at + n);
          continue;
        case UnicodeTable::kPart:
          if (open_ != kRun) begin(kRun, at + n);
          break;
        case UnicodeTable::kMark:
          if (open_ == kNone) begin(kRun, at + n);
          break;
        case UnicodeTable::kWhole:
          begin(kWholeWord, at + n);
          break;
      }
      append(code + static_cast<std::uint32_t>(about.distance));
    }
  }

  void begin(Open kind, std::size_t place) {
    if (open_ != kNone) stop_word(used_, place);
    starts_[num_starts_] = static_cast<Place>(used_);
    firsts_[num_starts_++] = static_cast<Place>(place);
    open_ = kind;
  }

  void stop_word(std::size_t byte, std::size_t place) {
    stops_[num_stops_] = static_cast<Place>(byte);
    if (!is_ascii_) ends_[num_stops_] = static_cast<Place>(place);
    ++num_stops_;
    open_ = kNone;
  }

  void append(std::uint32_t code) {
    char* out = bytes_ + used_;
    if (code < 0x80) {
      out[0] = static_cast<char>(code);
      used_ += 1;
    } else if (code < 0x800) {
      out[0] = static_cast<char>(0xC0 | code >> 6);
      out[1] = tail(code);
      used_ += 2;
    } else if (code < 0x10000) {
      out[0] = static_cast<char>(0xE0 | code >> 12);
      out[1] = tail(code >> 6);
      out[2] = tail(code);
      used_ += 3;
    } else {
      out[0] = static_cast<char>(0xF0 | code >> 18);
      out[1] = tail(code >> 12);
      out[2] = tail(code >> 6);
      out[3] = tail(code);
      used_ += 4;
    }
  }

  static char tail(std::uint32_t code) { return static_cast<char>(0x80 | (code & 0x3F)); }

  Room<Place> starts_room_, stops_room_, firsts_room_, ends_room_;
  Room<char> bytes_room_;
  Place *starts_ = nullptr, *stops_ = nullptr, *firsts_ = nullptr, *ends_ = nullptr;
  char* bytes_ = nullptr;
  std::size_t num_starts_ = 0, num_stops_ = 0, used_ = 0;
  Open open_ = kNone;
  bool is_ascii_ = true;
};

}  // namespace megacpt
