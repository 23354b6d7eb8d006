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

namespace megacpt {

using Shingles = std::vector<std::uint32_t>;

// Of two sorted sets without repetitions, what they have in common over what either has; less than
// `least` is reported as 0 where the sizes alone tell so. Two empty ones have nothing in common.
inline double jaccard(const Shingles& a, const Shingles& b, double least = 0.0) {
  const std::size_t small = std::min(a.size(), b.size()), large = std::max(a.size(), b.size());
  if (small == 0 || static_cast<double>(small) < least * static_cast<double>(large)) return 0.0;
  std::size_t at = 0, other = 0, common = 0;
  while (at < a.size() && other < b.size()) {
    const std::uint32_t left = a[at], right = b[other];
    common += left == right;
    at += left <= right;
    other += right <= left;
  }
  return static_cast<double>(common) / static_cast<double>(a.size() + b.size() - common);
}

// The shingles of all documents, in one file for each piece of a corpus. A document's lie between
// the end of the one before it and its own.
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

  void read(std::int64_t document, Shingles& out) const {
    const auto after = std::upper_bound(firsts_.begin(), firsts_.end(), document);
    require(after != firsts_.begin(), "no such document");
    const std::size_t file = static_cast<std::size_t>(after - firsts_.begin()) - 1;
    const std::int64_t at = document - firsts_[file];
    require(at < ends_[file].size(), "no such document");
    const std::int64_t start = at ? ends_[file][at - 1] : 0, count = ends_[file][at] - start;
    require(start >= 0 && count >= 0, "ends must not fall");
    out.resize(static_cast<std::size_t>(count));
    fill(file, static_cast<off_t>(start) * 4, reinterpret_cast<char*>(out.data()),
         static_cast<std::size_t>(count) * 4);
  }

 private:
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

// Leave out each document that is like one of its bucket which stays and has a lower priority:
// `rules[document]` becomes `rule` (where it is not 0 the document is out already), and
// `like[document]` the one that stays. Returns the number of comparisons.
inline std::int64_t drop_alike(const ShingleFiles& shingles, const Buckets& buckets,
                               double threshold, std::uint8_t rule, std::uint8_t* rules,
                               std::int64_t* like) {
  Shingles leader, other;
  std::int64_t compared = 0;
  for (std::int64_t bucket = 0; bucket < buckets.ends.size(); ++bucket) {
    const std::vector<std::int64_t> places = buckets.order(bucket);
    for (std::size_t n = 0; n + 1 < places.size(); ++n) {
      const std::int64_t first = buckets.members[places[n]];
      if (rules[first] != 0) continue;
      bool is_read = false;
      for (std::size_t m = n + 1; m < places.size(); ++m) {
        const std::int64_t second = buckets.members[places[m]];
        if (rules[second] != 0 || second == first ||
            buckets.priorities[places[m]] < kFirstThatMayGo)
          continue;
        if (!is_read) shingles.read(first, leader), is_read = true;
        shingles.read(second, other);
        ++compared;
        if (jaccard(leader, other, threshold) >= threshold) {
          rules[second] = rule;
          like[second] = first;
        }
      }
    }
  }
  return compared;
}

// Sets of documents that hang together: `parents` leads from each to one of its set in the end.
inline std::int64_t root_of(std::int64_t document, std::int64_t* parents) {
  while (parents[document] != document) {
    parents[document] = parents[parents[document]];
    document = parents[document];
  }
  return document;
}

// Join the sets of documents of a bucket that are like each other. Returns the comparisons.
inline std::int64_t join_alike(const ShingleFiles& shingles, const Buckets& buckets,
                               double threshold, const std::uint8_t* rules,
                               std::int64_t* parents) {
  Shingles one, other;
  std::int64_t compared = 0;
  for (std::int64_t bucket = 0; bucket < buckets.ends.size(); ++bucket) {
    const std::vector<std::int64_t> places = buckets.order(bucket);
    for (std::size_t n = 0; n + 1 < places.size(); ++n) {
      const std::int64_t first = buckets.members[places[n]];
      if (rules[first] != 0) continue;
      bool is_read = false;
      for (std::size_t m = n + 1; m < places.size(); ++m) {
        const std::int64_t second = buckets.members[places[m]];
        if (rules[second] != 0) continue;
        const std::int64_t a = root_of(first, parents), b = root_of(second, parents);
        if (a == b) continue;
        if (!is_read) shingles.read(first, one), is_read = true;
        shingles.read(second, other);
        ++compared;
        if (jaccard(one, other, threshold) >= threshold) parents[std::max(a, b)] = std::min(a, b);
      }
    }
  }
  return compared;
}

}  // namespace megacpt
