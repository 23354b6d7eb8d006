// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <pybind11/numpy.h>

#include <memory>
#include <utility>
#include <vector>

#include "bind_arrays.h"
#include "packing.h"

namespace megacpt {

inline pybind11::tuple best_fit(const pybind11::array& offsets, const pybind11::array& bounds,
                                std::int64_t item_bytes, std::int64_t num_tokens,
                                std::int64_t sequence_length) {
  namespace py = pybind11;
  const DocumentStarts starts(file_array<std::int64_t>(offsets, "offsets"),
                              file_array<std::int64_t>(bounds, "bounds"), item_bytes, num_tokens);
  std::unique_ptr<Packing> packing;
  std::vector<std::uint64_t> checksums;
  {
    py::gil_scoped_release release;
    packing = std::make_unique<Packing>(starts, sequence_length);
    checksums.resize(static_cast<std::size_t>(packing->num_rows()));
    const PackedRows rows(view(packing->row_ends), view(checksums), view(packing->starts),
                          view(packing->inputs));
    for (std::int64_t row = 0; row < packing->num_rows(); ++row) {
      const auto at = static_cast<std::size_t>(row);
      checksums[at] = rows.checksum(row, packing->row_ends[at], packing->row_ends[at + 1]);
    }
  }
  return py::make_tuple(handed_over(std::move(packing->row_ends)),
                        handed_over(std::move(checksums)), handed_over(std::move(packing->starts)),
                        handed_over(std::move(packing->inputs)), packing->num_cut,
                        packing->num_left_out);
}

inline PackedRows packed_rows(const pybind11::array& row_ends, const pybind11::array& checksums,
                              const pybind11::array& starts, const pybind11::array& inputs) {
  return PackedRows(file_array<std::int64_t>(row_ends, "row_ends"),
                    file_array<std::uint64_t>(checksums, "checksums"),
                    file_array<std::int64_t>(starts, "starts"),
                    file_array<std::int32_t>(inputs, "inputs"));
}

inline pybind11::tuple packed_row(const PackedRows& rows, std::int64_t row,
                                  std::int64_t sequence_length, std::int64_t num_tokens) {
  PackedRows::Row pieces = rows.row(row, sequence_length, num_tokens);
  return pybind11::make_tuple(handed_over(std::move(pieces.starts)),
                              handed_over(std::move(pieces.stops)));
}

inline void bind_packing(pybind11::module_& m) {
  namespace py = pybind11;
  m.def("best_fit", &best_fit, py::arg("offsets"), py::arg("bounds"), py::kw_only(),
        py::arg("item_bytes"), py::arg("num_tokens"), py::arg("sequence_length"),
        "Rows of documents: (row_ends, checksums, starts, inputs, documents cut, left out).");
  py::class_<PackedRows>(m, "PackedRows", "The arrays of best_fit, read from a file.")
      .def(py::init(&packed_rows), py::arg("row_ends"), py::arg("checksums"), py::arg("starts"),
           py::arg("inputs"), py::keep_alive<1, 2>(), py::keep_alive<1, 3>(),
           py::keep_alive<1, 4>(), py::keep_alive<1, 5>())
      .def("row", &packed_row, py::arg("row"), py::kw_only(), py::arg("sequence_length"),
           py::arg("num_tokens"), "First token of each piece, and one past its last target.");
}

}  // namespace megacpt
