// SPDX-License-Identifier: Apache-2.0
// Token shards and batches for Python.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "batch_row.h"
#include "bind_arrays.h"
#include "block_pool.h"
#include "mapped_file.h"
#include "token_stream.h"

namespace megacpt {

namespace py = pybind11;

inline std::unique_ptr<MappedFile> map_file(const std::string& path, bool scattered) {
  try {
    return std::make_unique<MappedFile>(path, scattered);
  } catch (const std::system_error& error) {
    errno = error.code().value();
    PyErr_SetFromErrnoWithFilename(PyExc_OSError, path.c_str());
    throw py::error_already_set();
  }
}

inline TokenType token_type(const py::dtype& type) {
  if (type.equal(py::dtype::of<std::uint8_t>())) return TokenType::kUint8;
  if (type.equal(py::dtype::of<std::int8_t>())) return TokenType::kInt8;
  if (type.equal(py::dtype::of<std::int16_t>())) return TokenType::kInt16;
  if (type.equal(py::dtype::of<std::uint16_t>())) return TokenType::kUint16;
  if (type.equal(py::dtype::of<std::int32_t>())) return TokenType::kInt32;
  if (type.equal(py::dtype::of<std::int64_t>())) return TokenType::kInt64;
  throw std::invalid_argument("tokens must be int8 to int64, uint8 or uint16, got " +
                              py::cast<std::string>(py::str(type)));
}

// A TokenStream and the arrays it looks into.
struct BoundStream {
  BoundStream(py::array tokens, py::array offsets, py::array bounds, std::int64_t id_limit)
      : arrays{tokens, offsets, bounds},
        stream(token_type(tokens.dtype()), tokens.data(), tokens.size(), id_limit,
               file_array<std::int64_t>(offsets, "offsets"),
               file_array<std::int64_t>(bounds, "bounds")) {
    require(tokens.ndim() == 1 && (tokens.flags() & py::array::c_style),
            "tokens must be a contiguous array of one dimension");
    require(bounds.size() >= 1, "bounds must not be empty");
  }

  std::vector<py::array> arrays;
  TokenStream stream;
};

using Int64Array = py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>;

// Starts or stops of a row's pieces: a list where they are few, which is read faster than an array
// is made, or an int64 array.
class Places {
 public:
  explicit Places(const py::handle& places) {
    if (py::isinstance<py::list>(places)) {
      list_ = places.cast<std::vector<std::int64_t>>();
    } else {
      array_ = Int64Array(py::reinterpret_borrow<py::object>(places));
    }
  }

  const std::int64_t* data() const { return array_ ? array_->data() : list_.data(); }
  std::size_t size() const {
    return array_ ? static_cast<std::size_t>(array_->size()) : list_.size();
  }

 private:
  std::vector<std::int64_t> list_;
  std::optional<Int64Array> array_;
};

// Rows as Python hands them over: (shard, source id, starts, stops, joined) each, where
// shard.stream is a BoundStream.
class Rows {
 public:
  explicit Rows(const py::sequence& rows) : source_ids_(static_cast<py::ssize_t>(rows.size())) {
    places_.reserve(2 * rows.size());
    std::int64_t* source_id = source_ids_.mutable_data();
    for (const py::handle& item : rows) {
      const auto row = py::reinterpret_borrow<py::tuple>(item);
      const auto& starts = places_.emplace_back(row[2]);
      const auto& stops = places_.emplace_back(row[3]);
      require(starts.size() == stops.size(), "starts and stops must be equally long");
      const auto& bound = py::cast<const BoundStream&>(row[0].attr("stream"));
      pieces_.push_back(
          {&bound.stream, starts.data(), stops.data(), starts.size(), py::cast<bool>(row[4])});
      *source_id++ = py::cast<std::int64_t>(row[1]);
    }
  }

  const std::vector<RowPieces>& pieces() const { return pieces_; }
  const py::array_t<std::int64_t>& source_ids() const { return source_ids_; }

 private:
  std::vector<Places> places_;
  std::vector<RowPieces> pieces_;
  py::array_t<std::int64_t> source_ids_;
};

// The arrays of a batch side by side in one block, which lives as long as any of them.
struct BatchArrays {
  BatchArrays(std::int64_t rows, std::int64_t length) {
    const auto places = static_cast<std::size_t>(rows * length);
    auto* block = new std::shared_ptr<void>(take_block(places * (3 * sizeof(std::int64_t) + 4)));
    const py::capsule owner(block, [](void* p) { delete static_cast<std::shared_ptr<void>*>(p); });
    auto* integers = static_cast<std::int64_t*>(block->get());
    const std::vector<py::ssize_t> shape{rows, length};
    tokens = py::array_t<std::int64_t>(shape, integers, owner);
    labels = py::array_t<std::int64_t>(shape, integers + places, owner);
    positions = py::array_t<std::int64_t>(shape, integers + 2 * places, owner);
    loss_mask =
        py::array_t<float>(shape, reinterpret_cast<float*>(integers + 3 * places), owner);
    row0 = {tokens.mutable_data(), labels.mutable_data(), loss_mask.mutable_data(),
            positions.mutable_data()};
  }

  BatchRow row(std::int64_t at) const {
    return {row0.tokens + at, row0.labels + at, row0.loss_mask + at, row0.positions + at};
  }

  py::array_t<std::int64_t> tokens, labels, positions;
  py::array_t<float> loss_mask;
  BatchRow row0;
};

// Returns (tokens, labels, loss mask, positions, source ids, bounds of each row), or the number of the first
// row that cannot be read: its pieces, their ids or the index are broken.
inline py::object fill_batch(const py::sequence& items, std::int64_t length, bool document_mask) {
  require(length >= 1, "sequence_length must be above 0, got " + std::to_string(length));
  const Rows rows(items);
  const auto count = static_cast<std::int64_t>(rows.pieces().size());
  const BatchArrays out(count, length);
  std::vector<std::vector<std::int32_t>> bounds(document_mask ? rows.pieces().size() : 0);
  std::int64_t done = 0;
  {
    py::gil_scoped_release release;
    for (const RowPieces& pieces : rows.pieces()) will_need(pieces);
    for (const RowPieces& pieces : rows.pieces()) {
      if (!is_sound(pieces, length)) break;
      const BatchRow row = out.row(done * length);
      fill_row(pieces, length, row);
      if (document_mask) {
        auto& found = bounds[static_cast<std::size_t>(done)];
        if (!find_bounds(pieces, length, found)) break;
        restart_positions(found, row.positions);
      }
      ++done;
    }
  }
  if (done < count) return py::int_(done);
  py::tuple ends(count);
  const std::vector<std::int32_t> whole{0, static_cast<std::int32_t>(length)};
  for (std::int64_t b = 0; b < count; ++b) {
    const auto& found = document_mask ? bounds[static_cast<std::size_t>(b)] : whole;
    ends[static_cast<std::size_t>(b)] =
        py::array_t<std::int32_t>(static_cast<py::ssize_t>(found.size()), found.data());
  }
  return py::make_tuple(out.tokens, out.labels, out.loss_mask, out.positions,
                        rows.source_ids(), ends);
}

inline void bind_batch(py::module_& m) {
  py::class_<MappedFile>(m, "MappedFile", py::buffer_protocol(),
                         "A file as read-only memory; holds no descriptor.")
      .def(py::init(&map_file), py::arg("path"), py::kw_only(), py::arg("scattered") = false)
      .def_buffer([](const MappedFile& file) {
        return py::buffer_info(static_cast<const unsigned char*>(file.data()),
                               static_cast<py::ssize_t>(file.size()));
      });
  py::class_<BoundStream>(m, "TokenStream", "Tokens of a shard and where its documents begin.")
      .def(py::init<py::array, py::array, py::array, std::int64_t>(), py::arg("tokens"),
           py::kw_only(), py::arg("offsets"), py::arg("bounds"), py::arg("id_limit"));
  m.def("fill_batch", &fill_batch, py::arg("rows"), py::kw_only(), py::arg("sequence_length"),
        py::arg("document_mask"),
        "Rows (shard, source id, starts, stops, joined) as arrays (tokens, labels, loss mask, "
        "positions, source ids, bounds of each row), or the number of the first row that cannot "
        "be read.");
}

}  // namespace megacpt
