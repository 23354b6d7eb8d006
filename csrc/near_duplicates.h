// SPDX-License-Identifier: Apache-2.0
// Which documents of a bucket are like others of it, by the shingles that they have in common.
// Plain C++17 and POSIX.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "file_array.h"
#include "jaccard.h"
#include "word_hash.h"

namespace megacpt {

using Shingles = std::vector<std::uint32_t>;

// Whether sets of these sizes have too little in common for a similarity of `least`.
inline bool differ_in_size(std::size_t a, std::size_t b, double least) {
  return static_cast<double>(std::min(a, b)) < least * static_cast<double>(std::max(a, b));
}

// The shingles of all documents, in one file for each piece of a corpus. A document's lie between
// the end of the one before it and its own. What was compared lately is known without reading.
class ShingleFiles {
 public:
  // `firsts`: number of the first document of each file, rising.
  ShingleFiles(const std::vector<std::string>& paths, std::vector<FileArray<std::int64_t>> ends,
               std::vector<std::int64_t> firsts)
      : ends_(std::move(ends)), firsts_(std::move(firsts)) {
    require(paths.size() == ends_.size() && paths.size() == firsts_.size(),
            "paths, ends and firsts must be equally many");
    for (const std::string& path : paths) {
      const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
      if (file < 0) {
        close_all();
        throw std::runtime_error(path + " cannot be opened");
      }
      files_.push_back(file);
    }
  }
  ShingleFiles(const ShingleFiles&) = delete;
  ShingleFiles& operator=(const ShingleFiles&) = delete;
  ~ShingleFiles() { close_all(); }

  double similarity(std::int64_t first, std::int64_t second) {
    return compare(first, second, 0.0);
  }

  // Whether the similarity is `threshold` or above, which is the same in all calls.
  bool alike(std::int64_t first, std::int64_t second, double threshold) {
    Compared& known = compared_[mixed(static_cast<std::uint64_t>(first) * kRowBase +
                                      static_cast<std::uint64_t>(second)) %
                                compared_.size()];
    if (known.first != first || known.second != second || known.threshold != threshold) {
      known = {first, second, threshold, compare(first, second, threshold) >= threshold};
      ++num_compared_;
    }
    return known.alike;
  }

  std::int64_t num_compared() const { return num_compared_; }

 private:
  struct Compared {
    std::int64_t first = -1, second = -1;
    double threshold = 0.0;
    bool alike = false;
  };

  double compare(std::int64_t first, std::int64_t second, double least) {
    if (first != held_) {
      held_ = -1;  // until it is read
      read(place_of(first), one_);
      held_ = first;
    }
    const Place place = place_of(second);
    if (differ_in_size(one_.size(), place.count, least)) return 0.0;
    read(place, other_);
    return jaccard(one_.data(), one_.size(), other_.data(), other_.size());
  }

  struct Place {
    std::size_t file, start, count;
  };

  Place place_of(std::int64_t document) const {
    const auto after = std::upper_bound(firsts_.begin(), firsts_.end(), document);
    require(after != firsts_.begin(), "no such document");
    const std::size_t file = static_cast<std::size_t>(after - firsts_.begin()) - 1;
    const std::int64_t at = document - firsts_[file];
    require(at < ends_[file].size(), "no such document");
    const std::int64_t start = at ? ends_[file][at - 1] : 0, count = ends_[file][at] - start;
    require(start >= 0 && count >= 0, "ends must not fall");
    return {file, static_cast<std::size_t>(start), static_cast<std::size_t>(count)};
  }

  void read(const Place& place, Shingles& out) const {
    out.resize(place.count);
    fill(place.file, static_cast<off_t>(place.start) * 4, reinterpret_cast<char*>(out.data()),
         place.count * 4);
  }

  void fill(std::size_t file, off_t at, char* into, std::size_t left) const {
    while (left > 0) {
      const ssize_t got = ::pread(files_[file], into, left, at);
      if (got <= 0) throw std::runtime_error("a file of shingles ends too early");
      into += got, at += got, left -= static_cast<std::size_t>(got);
    }
  }

  void close_all() {
    for (const int file : files_) ::close(file);
    files_.clear();
  }

  std::vector<FileArray<std::int64_t>> ends_;
  std::vector<std::int64_t> firsts_;
  std::vector<int> files_;
  std::vector<Compared> compared_{std::size_t{1} << 17};
  std::int64_t num_compared_ = 0, held_ = -1;
  Shingles one_, other_;
};

// Documents that share a bucket: `members` by their numbers, those of bucket n from the end of the
// one before it to `ends[n]`; `priorities` of each, of which the lower is kept.
struct Buckets {
  FileArray<std::int64_t> members;
  FileArray<std::uint64_t> priorities;
  FileArray<std::int64_t> ends;

  void check(std::int64_t num_documents) const {
    require(members.size() == priorities.size(), "members and priorities must be equally many");
    for (std::int64_t n = 0; n < members.size(); ++n)
      require(members[n] >= 0 && members[n] < num_documents, "no such document");
    std::int64_t before = 0;
    for (std::int64_t n = 0; n < ends.size(); ++n) {
      require(ends[n] >= before && ends[n] <= members.size(), "ends must rise up to the last");
      before = ends[n];
    }
  }

  // The places of a bucket's members, that of the lowest priority first.
  std::vector<std::int64_t> order(std::int64_t bucket) const {
    const std::int64_t start = bucket ? ends[bucket - 1] : 0;
    std::vector<std::int64_t> places(static_cast<std::size_t>(ends[bucket] - start));
    std::iota(places.begin(), places.end(), start);
    std::sort(places.begin(), places.end(), [&](std::int64_t a, std::int64_t b) {
      return std::make_pair(priorities[a], members[a]) < std::make_pair(priorities[b], members[b]);
    });
    return places;
  }
};

// Priorities below this are of documents that are never left out.
constexpr std::uint64_t kFirstThatMayGo = std::uint64_t{1} << 63;

// The pairs of each bucket, the one of lower priority first, as long as `is_in` says so of both:
// `visit` may change that.
template <typename IsIn, typename Visit>
void each_pair(const Buckets& buckets, const IsIn& is_in, const Visit& visit) {
  for (std::int64_t bucket = 0; bucket < buckets.ends.size(); ++bucket) {
    const std::vector<std::int64_t> places = buckets.order(bucket);
    for (std::size_t n = 0; n + 1 < places.size(); ++n) {
      const std::int64_t first = buckets.members[places[n]];
      for (std::size_t m = n + 1; m < places.size() && is_in(first); ++m)
        if (is_in(buckets.members[places[m]]))
          visit(first, buckets.members[places[m]], buckets.priorities[places[m]]);
    }
  }
}

// Leave out each document that is like one of its bucket which stays and has a lower priority:
// `rules[document]` becomes `rule` (where it is not 0 the document is out already), and
// `like[document]` the one that stays.
inline void drop_alike(ShingleFiles& shingles, const Buckets& buckets, double threshold,
                       std::uint8_t rule, std::uint8_t* rules, std::int64_t* like) {
  each_pair(
      buckets, [&](std::int64_t document) { return rules[document] == 0; },
      [&](std::int64_t first, std::int64_t second, std::uint64_t priority) {
        if (second == first || priority < kFirstThatMayGo ||
            !shingles.alike(first, second, threshold))
          return;
        rules[second] = rule;
        like[second] = first;
      });
}

// Sets of documents that hang together: `parents` leads from each to one of its set in the end.
inline std::int64_t root_of(std::int64_t document, std::int64_t* parents) {
  while (parents[document] != document) {
    parents[document] = parents[parents[document]];
    document = parents[document];
  }
  return document;
}

// Join the sets of documents of a bucket that are like each other.
inline void join_alike(ShingleFiles& shingles, const Buckets& buckets, double threshold,
                       const std::uint8_t* rules, std::int64_t* parents) {
  each_pair(
      buckets, [&](std::int64_t document) { return rules[document] == 0; },
      [&](std::int64_t first, std::int64_t second, std::uint64_t) {
        const std::int64_t a = root_of(first, parents), b = root_of(second, parents);
        if (a != b && shingles.alike(first, second, threshold))
          parents[std::max(a, b)] = std::min(a, b);
      });
}

}  // namespace megacpt
