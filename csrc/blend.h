// SPDX-License-Identifier: Apache-2.0
// How many samples of each source go into each global batch. Plain C++17, exact in integers.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace megacpt {

// The fractional part of the apportionment. Source d is due remainder[d] / denominator samples a
// batch beyond its whole ones; those remainders add up to a whole number m of samples, and each
// batch gives one extra sample to m different sources. Which m, is the scheduling of D tasks on m
// processors "as a fluid would": the PD2 rule (Anderson and Srinivasan 2001, "Mixed Pfair/ERfair
// scheduling of asynchronous periodic tasks", section 3) keeps every source within one sample of
// its share after every batch, which choosing the largest deficit does not.
//
// lag[d] = steps * remainder[d] - denominator * drawn[d]: what the source is owed, in units of
// 1 / denominator sample; always strictly between -denominator and +denominator.
class Blend {
 public:
  static constexpr std::int64_t kLargestDenominator = std::int64_t{1} << 40;

  Blend(std::vector<std::int64_t> remainder, std::int64_t denominator,
        std::vector<std::int64_t> lag)
      : remainder_(std::move(remainder)), denominator_(denominator), lag_(std::move(lag)) {
    require(denominator >= 1 && denominator <= kLargestDenominator,
            "denominator must be in 1..2^40, got " + std::to_string(denominator));
    require(remainder_.size() == lag_.size(), "remainders and lags must be equally long, got " +
                                                  std::to_string(remainder_.size()) + " and " +
                                                  std::to_string(lag_.size()));
    std::int64_t due = 0;
    for (std::size_t d = 0; d < remainder_.size(); ++d) {
      require(remainder_[d] >= 0 && remainder_[d] < denominator, d, "remainders", remainder_[d]);
      require(lag_[d] > -denominator && lag_[d] < denominator, d, "lags", lag_[d]);
      due += remainder_[d];
    }
    require(due % denominator == 0, "remainders must add up to a multiple of denominator=" +
                                        std::to_string(denominator) + ", got " +
                                        std::to_string(due));
    extras_ = static_cast<std::size_t>(due / denominator);
    drawn_.assign(remainder_.size(), 0);
  }

  // Apportion one more batch.
  void step() {
    eligible_.clear();
    for (std::size_t d = 0; d < remainder_.size(); ++d) {
      lag_[d] += remainder_[d];
      if (lag_[d] > 0 && remainder_[d] > 0) eligible_.push_back(priority(d));
    }
    if (eligible_.size() < extras_)
      throw std::logic_error("fewer sources are due than the batch has places");
    const auto chosen_end = eligible_.begin() + static_cast<std::ptrdiff_t>(extras_);
    std::nth_element(eligible_.begin(), chosen_end, eligible_.end());
    for (auto chosen = eligible_.begin(); chosen != chosen_end; ++chosen) {
      lag_[chosen->source] -= denominator_;
      ++drawn_[chosen->source];
    }
  }

  const std::vector<std::int64_t>& drawn() const { return drawn_; }
  const std::vector<std::int64_t>& lag() const { return lag_; }

 private:
  struct Priority {
    std::int64_t deadline;        // batches until the next sample is overdue; 1 means this batch
    bool next_overlaps;           // the window of the sample after it opens before that deadline
    std::int64_t group_deadline;  // end of the cascade a late choice would start; 0 for light ones
    std::size_t source;

    bool operator<(const Priority& other) const {
      if (deadline != other.deadline) return deadline < other.deadline;
      if (next_overlaps != other.next_overlaps) return next_overlaps;
      if (group_deadline != other.group_deadline) return group_deadline > other.group_deadline;
      return source < other.source;
    }
  };

  static void require(bool holds, const std::string& message) {
    if (!holds) throw std::invalid_argument(message);
  }

  void require(bool holds, std::size_t d, const char* name, std::int64_t value) const {
    if (!holds)
      throw std::invalid_argument(std::string(name) + "[" + std::to_string(d) +
                                  "] is out of range for denominator=" +
                                  std::to_string(denominator_) + ": " + std::to_string(value));
  }

  static std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
    return a / b + (a % b > 0 ? 1 : 0);  // b > 0; C++ truncates toward zero
  }

  Priority priority(std::size_t d) const {
    const std::int64_t rate = remainder_[d];
    const std::int64_t before = lag_[d] - rate;
    const std::int64_t owed = denominator_ - before;
    const std::int64_t deadline = ceil_div(owed, rate);
    std::int64_t group_deadline = 0;
    if (2 * rate >= denominator_) {
      const std::int64_t idle = denominator_ - rate;
      const std::int64_t skipped = ceil_div(deadline * idle - before, denominator_);
      group_deadline = ceil_div(skipped * denominator_ + before, idle);
    }
    return {deadline, owed % rate != 0, group_deadline, d};
  }

  std::vector<std::int64_t> remainder_;
  std::int64_t denominator_;
  std::vector<std::int64_t> lag_;
  std::vector<std::int64_t> drawn_;
  std::vector<Priority> eligible_;
  std::size_t extras_ = 0;
};

}  // namespace megacpt
