// SPDX-License-Identifier: Apache-2.0
// What is kept of a text to find others that are like it: the set of its shingles, words in a row,
// and hashes of their smallest images under many permutations (MinHash). Plain C++17.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "file_array.h"
#include "word_hash.h"
#include "words.h"

namespace megacpt {

// Permutations are drawn for so many more that all widths of vectors divide them.
constexpr std::size_t kTogether = 64;

// images_in_N_bits: of each permutation the smallest of factor x + term, modulo 2^32, over all
// shingles x. This is nearly all of the time, and as fast as its vectors are wide. Those of four
// vectors are followed together, in registers. A type wider than the processor's vectors would be
// kept in memory, so there is a function for each width.
#define MEGACPT_SMALLEST_IMAGES(TARGET, BITS)                                                      \
  TARGET inline void images_in_##BITS##_bits(                                                      \
      const std::uint32_t* shingles, std::size_t count, const std::uint32_t* factors,              \
      const std::uint32_t* terms, std::size_t permutations, std::uint32_t* smallest) {             \
    typedef std::uint32_t Lanes __attribute__((vector_size(BITS / 8), aligned(4), may_alias));     \
    for (std::size_t first = 0; first < permutations; first += 4 * BITS / 32) {                    \
      const Lanes* factor = reinterpret_cast<const Lanes*>(factors + first);                       \
      const Lanes* term = reinterpret_cast<const Lanes*>(terms + first);                           \
      const Lanes factor0 = factor[0], factor1 = factor[1], factor2 = factor[2],                   \
                  factor3 = factor[3], term0 = term[0], term1 = term[1], term2 = term[2],          \
                  term3 = term[3];                                                                 \
      Lanes smallest0 = ~(factor0 ^ factor0), smallest1 = smallest0, smallest2 = smallest0,        \
            smallest3 = smallest0;                                                                 \
      for (std::size_t n = 0; n < count; ++n) {                                                    \
        const Lanes image0 = factor0 * shingles[n] + term0;                                        \
        const Lanes image1 = factor1 * shingles[n] + term1;                                        \
        const Lanes image2 = factor2 * shingles[n] + term2;                                        \
        const Lanes image3 = factor3 * shingles[n] + term3;                                        \
        smallest0 = image0 < smallest0 ? image0 : smallest0;                                       \
        smallest1 = image1 < smallest1 ? image1 : smallest1;                                       \
        smallest2 = image2 < smallest2 ? image2 : smallest2;                                       \
        smallest3 = image3 < smallest3 ? image3 : smallest3;                                       \
      }                                                                                            \
      Lanes* out = reinterpret_cast<Lanes*>(smallest + first);                                     \
      out[0] = smallest0;                                                                          \
      out[1] = smallest1;                                                                          \
      out[2] = smallest2;                                                                          \
      out[3] = smallest3;                                                                          \
    }                                                                                              \
  }

MEGACPT_SMALLEST_IMAGES(, 128)

#if defined(__x86_64__) && defined(__GNUC__)
MEGACPT_SMALLEST_IMAGES(__attribute__((target("avx2"))), 256)
MEGACPT_SMALLEST_IMAGES(__attribute__((target("avx512f"))), 512)

// Of the widest vectors that this processor has, up to `bits`.
inline auto smallest_images(std::int64_t bits) {
  if (bits >= 512 && __builtin_cpu_supports("avx512f")) return images_in_512_bits;
  if (bits >= 256 && __builtin_cpu_supports("avx2")) return images_in_256_bits;
  return images_in_128_bits;
}
#else
inline auto smallest_images(std::int64_t) { return images_in_128_bits; }
#endif

// Sort hashes, and leave each once. They are dealt by their highest bits into about as many
// buckets as there are hashes, which leaves few that are out of order, near their places.
class SortedSet {
 public:
  // Returns the number that is left. There are less than 2^31.
  std::size_t make(std::uint32_t* hashes, std::size_t count) {
    if (count < 2) return count;
    unsigned bits = 1;
    while (bits < kMostBits && (std::size_t{1} << bits) < count) ++bits;
    const unsigned shift = 32 - bits;
    const std::size_t buckets = std::size_t{1} << bits;
    places_.assign(buckets, 0);
    std::uint32_t most = 0;
    for (std::size_t n = 0; n < count; ++n)
      most = std::max(most, ++places_[hashes[n] >> shift]);
    std::uint32_t place = 0;
    for (std::size_t bucket = 0; bucket < buckets; ++bucket)
      place += std::exchange(places_[bucket], place);
    std::uint32_t* dealt = room_.get(count);
    for (std::size_t n = 0; n < count; ++n) dealt[places_[hashes[n] >> shift]++] = hashes[n];
    if (most > kFew) std::sort(dealt, dealt + count);
    else insert_each(dealt, count);
    std::size_t left = 0;
    for (std::size_t n = 0; n + 1 < count; ++n) {
      hashes[left] = dealt[n];
      left += dealt[n] != dealt[n + 1];
    }
    hashes[left] = dealt[count - 1];
    return left + 1;
  }

 private:
  static constexpr unsigned kMostBits = 24;
  static constexpr std::uint32_t kFew = 32;

  static void insert_each(std::uint32_t* hashes, std::size_t count) {
    for (std::size_t n = 1; n < count; ++n) {
      const std::uint32_t hash = hashes[n];
      std::size_t at = n;
      for (; at > 0 && hashes[at - 1] > hash; --at) hashes[at] = hashes[at - 1];
      hashes[at] = hash;
    }
  }

  std::vector<std::uint32_t> places_;
  Room<std::uint32_t> room_;
};

// How shingles and bands are made.
class SketchPlan {
 public:
  static constexpr std::int64_t kMostPermutations = 1 << 16;

  // The sketch is the same of any `vector_bits`.
  SketchPlan(std::int64_t words, std::int64_t bands, std::int64_t rows, std::uint64_t seed,
             std::int64_t vector_bits)
      : rolling_(checked(words)),
        words_(static_cast<std::size_t>(words)),
        bands_(static_cast<std::size_t>(bands)),
        rows_(static_cast<std::size_t>(rows)),
        images_(smallest_images(vector_bits)) {
    require(bands >= 0 && bands <= kMostPermutations,
            "bands must be in 0..65536, got " + std::to_string(bands));
    require(rows >= (bands ? 1 : 0) && rows <= kMostPermutations &&
                bands * rows <= kMostPermutations,
            "rows must be above 0, and bands * rows at most 65536, got " + std::to_string(rows));
    // What is left over of the last of them goes to waste.
    const std::size_t room = (bands_ * rows_ + kTogether - 1) / kTogether * kTogether;
    for (std::size_t n = 0; n < room; ++n) {
      const std::uint64_t drawn = mixed(seed += 0x9E3779B97F4A7C15);
      factors_.push_back(static_cast<std::uint32_t>(drawn) | 1);  // odd: a permutation
      terms_.push_back(static_cast<std::uint32_t>(drawn >> 32));
    }
  }

  std::size_t bands() const { return bands_; }

  // The hash of every shingle; of all words where they are too few for one.
  void shingles(const std::vector<std::uint64_t>& words, std::vector<std::uint32_t>& out) const {
    out.resize(words.empty() ? 0 : words.size() - std::min(words.size(), words_) + 1);
    const auto put = [&](std::size_t at, std::uint64_t hash) {
      out[at] = static_cast<std::uint32_t>(hash >> 32);
    };
    if (words.size() >= words_) rolling_.each(words.data(), words.size(), put);
    else if (!words.empty()) put(0, row_hash(words.data(), words.size()));
  }

  // A hash of each band. `smallest` is working space. Of no shingles, all images are the largest.
  void bands(const std::vector<std::uint32_t>& shingles, std::vector<std::uint32_t>& smallest,
             std::uint64_t* out) const {
    smallest.resize(factors_.size());
    images_(shingles.data(), shingles.size(), factors_.data(), terms_.data(), bands_ * rows_,
            smallest.data());
    for (std::size_t band = 0; band < bands_; ++band) {
      std::uint64_t hash = band;
      for (std::size_t row = 0; row < rows_; ++row) hash = joined(hash, smallest[band * rows_ + row]);
      out[band] = mixed(hash);
    }
  }

 private:
  static std::size_t checked(std::int64_t words) {
    require(words >= 1 && words <= kMostPermutations,
            "words must be in 1..65536, got " + std::to_string(words));
    return static_cast<std::size_t>(words);
  }

  RollingHash rolling_;
  std::size_t words_, bands_, rows_;
  std::vector<std::uint32_t> factors_, terms_;
  decltype(smallest_images(0)) images_;
};

// What is wanted of each text besides the number of its words.
struct SketchParts {
  bool normalised, shingles, hashes;
};

// The sketches of texts one after another.
class Sketches {
 public:
  std::vector<std::uint8_t> normalised;  // words with a space between them
  std::vector<std::int64_t> text_offsets{0};
  std::vector<std::int32_t> num_words;
  std::vector<std::uint32_t> shingles;  // sets, sorted
  std::vector<std::int64_t> shingle_offsets{0};
  std::vector<std::uint64_t> bands;
  std::vector<std::uint64_t> hashes;  // of all words in a row

  Sketches(const SketchPlan& plan, SketchParts wanted) : plan_(plan), wanted_(wanted) {}

  void add_all(const std::vector<Text>& texts) {
    std::size_t length = 0;
    for (const Text& text : texts) length += text.length;
    if (wanted_.normalised) normalised.reserve(length);
    if (wanted_.shingles) shingles.reserve(length / kWordBytes);
    for (const Text& text : texts) add(text);
  }

 private:
  void add(const Text& text) {
    words_.read(text);
    num_words.push_back(static_cast<std::int32_t>(words_.size()));
    if (wanted_.normalised) add_normalised();
    text_offsets.push_back(static_cast<std::int64_t>(normalised.size()));
    if (wanted_.hashes || wanted_.shingles || plan_.bands() > 0) hash_words(words_, hashes_);
    if (wanted_.hashes) hashes.push_back(row_hash(hashes_.data(), hashes_.size()));
    if (wanted_.shingles || plan_.bands() > 0) add_shingles();
    shingle_offsets.push_back(static_cast<std::int64_t>(shingles.size()));
  }

  void add_normalised() {
    std::size_t most = Words::kSpare;
    for (std::size_t n = 0; n < words_.size(); ++n) most += words_.stop(n) - words_.start(n) + 1;
    char* const line = line_.get(most);
    char* out = line;
    for (std::size_t n = 0; n < words_.size(); ++n) {
      const char* word = words_.bytes() + words_.start(n);
      const std::size_t count = words_.stop(n) - words_.start(n);
      std::memcpy(out, word, kOften);  // of a fixed length: faster than just as many
      if (count > kOften) std::memcpy(out + kOften, word + kOften, count - kOften);
      out[count] = ' ';
      out += count + 1;
    }
    if (words_.size() > 0) normalised.insert(normalised.end(), line, out - 1);
  }

  void add_shingles() {
    plan_.shingles(hashes_, found_);
    if (wanted_.shingles) {
      found_.resize(set_.make(found_.data(), found_.size()));
      shingles.insert(shingles.end(), found_.begin(), found_.end());
    }
    if (plan_.bands() > 0) {
      const std::size_t before = bands.size();
      bands.resize(before + plan_.bands());
      plan_.bands(found_, smallest_, bands.data() + before);
    }
  }

  static constexpr std::size_t kOften = 16;  // bytes of nearly every word, or more
  static constexpr std::size_t kWordBytes = 5;  // and blank, about

  const SketchPlan& plan_;
  const SketchParts wanted_;
  Words words_;
  Room<char> line_;
  std::vector<std::uint64_t> hashes_;
  std::vector<std::uint32_t> found_, smallest_;
  SortedSet set_;
};

}  // namespace megacpt
