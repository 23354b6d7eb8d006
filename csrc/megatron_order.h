// SPDX-License-Identifier: Apache-2.0
// The three indices of megatron-core's GPTDataset and the two of its BlendedDataset, entry for entry.
// Plain C++17.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "file_array.h"

namespace megacpt {

// numpy.random.RandomState(seed): its shuffles, in its order. NumPy seeds MT19937 from an integer as
// std::mt19937 does, and the C++ standard fixes the engine's output, so the engine is the library's.
class LegacyShuffler {
 public:
  explicit LegacyShuffler(std::uint32_t seed) : engine_(seed) {}

  // Fisher and Yates from the last place down, each target drawn by masking 32 bits and rejecting
  // what is too large. The targets do not depend on the values, so a block of them is drawn and
  // prefetched first: that hides the cache misses which are nearly all of the cost.
  template <typename T>
  void shuffle(T* values, std::int64_t size) {
    std::uint32_t targets[kBlock];
    for (std::int64_t last = size - 1; last >= 1;) {
      const std::int64_t count = draw(last, targets);
      for (std::int64_t n = 0; n < count; ++n) __builtin_prefetch(values + targets[n], 1);
      for (std::int64_t n = 0; n < count; ++n) std::swap(values[last - n], values[targets[n]]);
      last -= count;
    }
  }

 private:
  static constexpr std::int64_t kBlock = 256;

  // Targets of the places last, last - 1, ... for as long as they share a mask and fit a block.
  std::int64_t draw(std::int64_t last, std::uint32_t* targets) {
    std::uint32_t mask = 1;
    while (mask < last) mask = (mask << 1) | 1;
    const std::int64_t sharing_mask = last - (mask >> 1);
    const std::int64_t wanted = std::min(kBlock, sharing_mask);
    std::int64_t count = 0;
    while (count < wanted) {
      const auto target = static_cast<std::uint32_t>(engine_()) & mask;
      targets[count] = target;
      count += target <= last - count ? 1 : 0;  // no branch: it would be mispredicted
    }
    return count;
  }

  std::mt19937 engine_;
};

struct MegatronSize {
  std::int64_t num_sequences;
  std::int64_t num_epochs;
  std::int64_t sequence_length;
  std::int64_t num_tokens_per_epoch;

  static constexpr std::int64_t kMostEntries = std::numeric_limits<std::int32_t>::max();

  std::int64_t num_entries() const { return num_sequences * num_epochs; }
  std::int64_t num_samples() const {
    return (num_epochs * num_tokens_per_epoch - 1) / sequence_length;
  }

  void check() const {
    require(sequence_length >= 1 && sequence_length <= kMostEntries,
            "sequence_length must be in 1..2^31-1, got " + std::to_string(sequence_length));
    require(num_epochs >= 1 && num_sequences >= 1 && num_tokens_per_epoch >= 1,
            "there must be at least one epoch, sequence and token");
    require(num_epochs <= kMostEntries / num_sequences,
            "num_epochs * number of sequences must be below 2^31");
    require(num_tokens_per_epoch <= std::numeric_limits<std::int64_t>::max() / num_epochs &&
                num_samples() < kMostEntries,
            "the number of samples must be below 2^31");
  }
};

// Adds up the lengths of an epoch; nothing read from a file is used before this has passed it.
inline std::int64_t checked_total(const FileArray<std::int32_t>& lengths) {
  std::int64_t total = 0;
  std::int32_t smallest = 0;
  for (std::int64_t n = 0; n < lengths.size(); ++n) {
    smallest = std::min(smallest, lengths[n]);
    total += lengths[n];
  }
  require(smallest >= 0, "a length is negative: " + std::to_string(smallest));
  return total;
}

// Which sequence comes at which place of the run's token stream. All epochs are shuffled as one;
// with `separate_last_epoch` the last one is kept out of that and shuffled by itself.
inline void fill_document_index(const MegatronSize& size, bool separate_last_epoch,
                                LegacyShuffler* shuffler, std::int32_t* index) {
  for (std::int64_t epoch = 0; epoch < size.num_epochs; ++epoch)
    for (std::int64_t n = 0; n < size.num_sequences; ++n)
      index[epoch * size.num_sequences + n] = static_cast<std::int32_t>(n);
  const std::int64_t apart = separate_last_epoch ? size.num_sequences : 0;
  shuffler->shuffle(index, size.num_entries() - apart);
  shuffler->shuffle(index + size.num_entries() - apart, apart);
}

// Where sample k begins, for k = 0 .. num_samples: the place in `document_index` and the token of
// that sequence, which is token k * sequence_length of the stream. Samples share one token with
// the next. Sample 0 begins at place 0 even where the sequence there is empty.
inline void fill_sample_index(const MegatronSize& size, const FileArray<std::int32_t>& lengths,
                              const std::int32_t* document_index, std::int32_t* index) {
  constexpr std::int64_t kAhead = 32;
  const std::int64_t num_entries = size.num_entries();
  const std::int64_t num_samples = size.num_samples();
  index[0] = index[1] = 0;
  std::int64_t sample = 1;
  std::int64_t place_begin = 0;
  std::int64_t sample_begin = size.sequence_length;
  for (std::int64_t place = 0; place < num_entries && sample <= num_samples; ++place) {
    if (place + kAhead < num_entries)
      __builtin_prefetch(lengths.address(document_index[place + kAhead]));
    const std::int64_t place_end = place_begin + lengths[document_index[place]];
    for (; sample_begin < place_end && sample <= num_samples; ++sample) {
      index[2 * sample] = static_cast<std::int32_t>(place);
      index[2 * sample + 1] = static_cast<std::int32_t>(sample_begin - place_begin);
      sample_begin += size.sequence_length;
    }
    place_begin = place_end;
  }
  require(sample == num_samples + 1, "the lengths changed while they were read");
}

// The order of the samples. With the last epoch apart, the samples that begin before it are
// shuffled by themselves, then the others.
inline void fill_shuffle_index(const MegatronSize& size, bool separate_last_epoch,
                               LegacyShuffler* shuffler, std::uint32_t* index) {
  const std::int64_t num_samples = size.num_samples();
  for (std::int64_t n = 0; n < num_samples; ++n) index[n] = static_cast<std::uint32_t>(n);
  std::int64_t first = num_samples;
  if (separate_last_epoch) {
    MegatronSize before = size;
    --before.num_epochs;
    first = before.num_samples();
  }
  shuffler->shuffle(index, first);
  shuffler->shuffle(index + first, num_samples - first);
}

// Sample n of a blend comes from the source that is furthest behind weight * max(n, 1), the first
// of them where several are; the sums are doubles, as megatron-core's are, so that ties and
// rounding fall the same way. Not FMA: megatron-core is built without, and it rounds differently.
class MegatronBlend {
 public:
  explicit MegatronBlend(const std::vector<double>& weights) : num_sources_(weights.size()) {
    require(!weights.empty() && weights.size() < kMostSources,
            "there must be 1 to 32766 weights, got " + std::to_string(weights.size()));
    for (double weight : weights)
      require(weight > 0 && weight <= 1,
              "weights must be above 0 and at most 1, got " + std::to_string(weight));
    const std::size_t padded = (num_sources_ + kLanes - 1) / kLanes * kLanes;
    weight_.assign(padded, 0.0);
    drawn_.assign(padded, std::numeric_limits<double>::infinity());
    std::copy(weights.begin(), weights.end(), weight_.begin());
    std::fill_n(drawn_.begin(), num_sources_, 0.0);
  }

  void fill(std::int16_t* source, std::int64_t* sample, std::int64_t count) {
    if (num_sources_ <= kFewSources) return fill_few(source, sample, count);
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx2")) return fill_avx2(source, sample, count);
#endif
    fill_by<Double2, Int2>(source, sample, count);
  }

 private:
  static constexpr std::size_t kMostSources = 32767;
  static constexpr std::size_t kFewSources = 24;  // below, vectors gain nothing
  static constexpr std::size_t kLanes = 8;
  // Vectors are an extension of GCC and Clang; these fit one register of SSE2 or NEON, and of AVX2.
  typedef double Double2 __attribute__((vector_size(16)));
  typedef std::int64_t Int2 __attribute__((vector_size(16)));
  typedef double Double4 __attribute__((vector_size(32)));
  typedef std::int64_t Int4 __attribute__((vector_size(32)));

  void fill_few(std::int16_t* source, std::int64_t* sample, std::int64_t count) {
    const std::size_t num_sources = num_sources_;
    const double* weight = weight_.data();
    double* drawn = drawn_.data();
    for (std::int64_t n = 0; n < count; ++n) {
      const auto due = static_cast<double>(n > 1 ? n : 1);
      std::size_t chosen = 0;
      double largest = weight[0] * due - drawn[0];
      for (std::size_t d = 1; d < num_sources; ++d) {
        const double deficit = weight[d] * due - drawn[d];
        if (deficit > largest) {
          largest = deficit;
          chosen = d;
        }
      }
      source[n] = static_cast<std::int16_t>(chosen);
      sample[n] = static_cast<std::int64_t>(drawn[chosen]);
      drawn[chosen] += 1.0;
    }
  }

#ifdef __x86_64__
  __attribute__((target("avx2"))) void fill_avx2(std::int16_t* source, std::int64_t* sample,
                                                 std::int64_t count) {
    fill_by<Double4, Int4>(source, sample, count);
  }
#endif

  template <typename Doubles, typename Ints>
  __attribute__((always_inline)) inline void fill_by(std::int16_t* source, std::int64_t* sample,
                                                     std::int64_t count) {
    for (std::int64_t n = 0; n < count; ++n) {
      const auto due = static_cast<double>(n > 1 ? n : 1);
      const std::int64_t chosen = furthest_behind<Doubles, Ints>(due);
      source[n] = static_cast<std::int16_t>(chosen);
      sample[n] = static_cast<std::int64_t>(drawn_[chosen]);
      drawn_[chosen] += 1.0;
    }
  }

  // The largest deficit of every lane and the first place in it, then the first place of all that
  // have the largest. Padding has drawn infinitely much.
  template <typename Doubles, typename Ints>
  __attribute__((always_inline)) inline std::int64_t furthest_behind(double due) const {
    constexpr std::size_t kWidth = sizeof(Doubles) / sizeof(double);
    constexpr std::size_t kVectors = kLanes / kWidth;
    Doubles largest[kVectors];
    Ints place[kVectors];
    for (std::size_t v = 0; v < kVectors; ++v) {
      largest[v] = Doubles{} - std::numeric_limits<double>::infinity();
      place[v] = Ints{};
    }
    const auto size = static_cast<std::int64_t>(weight_.size());
    for (std::int64_t at = 0; at < size; at += kLanes)
      for (std::size_t v = 0; v < kVectors; ++v) {
        Doubles weight, drawn;
        std::memcpy(&weight, weight_.data() + at + v * kWidth, sizeof weight);
        std::memcpy(&drawn, drawn_.data() + at + v * kWidth, sizeof drawn);
        const Doubles deficit = weight * due - drawn;
        const Ints better = deficit > largest[v];
        largest[v] = better ? deficit : largest[v];
        place[v] = better ? Ints{} + at : place[v];
      }
    double most = largest[0][0];
    for (const Doubles& lanes : largest)
      for (std::size_t lane = 0; lane < kWidth; ++lane)
        most = lanes[lane] > most ? lanes[lane] : most;
    std::int64_t first = size;
    for (std::size_t v = 0; v < kVectors; ++v) {
      const Ints behind = largest[v] == most;
      for (std::size_t lane = 0; lane < kWidth; ++lane) {
        const auto own = static_cast<std::int64_t>(v * kWidth + lane);
        const std::int64_t candidate = behind[lane] ? place[v][lane] + own : size;
        first = candidate < first ? candidate : first;
      }
    }
    return first;
  }

  std::size_t num_sources_;
  std::vector<double> weight_;
  std::vector<double> drawn_;  // exact: counts stay far below 2^53
};

}  // namespace megacpt
