// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <utility>

#include "bind_arrays.h"
#include "document_ends.h"

namespace megacpt {

template <typename T>
pybind11::object ended(const pybind11::array& ids, const pybind11::array& bounds,
                       std::optional<std::uint32_t> eos_id, std::uint32_t vocab_size) {
  namespace py = pybind11;
  constexpr auto kLast = static_cast<std::uint32_t>(std::numeric_limits<T>::max());
  require(vocab_size >= 1 && vocab_size - 1 <= kLast,
          "vocab_size must be at least 1, and its ids must fit the type");
  require(!eos_id || *eos_id < vocab_size, "eos_id must be in the vocabulary");
  const auto id_array = file_array<std::uint32_t>(ids, "ids");
  const auto bound_array = file_array<std::int64_t>(bounds, "bounds");
  std::unique_ptr<DocumentEnds> documents;
  {
    py::gil_scoped_release release;
    documents = std::make_unique<DocumentEnds>(id_array, bound_array, eos_id);
  }
  py::array_t<T> tokens(static_cast<py::ssize_t>(documents->num_tokens));
  T* out = tokens.mutable_data();
  std::uint32_t largest;
  {
    py::gil_scoped_release release;
    largest = documents->fill(out);
  }
  if (largest >= vocab_size) return py::int_(largest);
  return py::make_tuple(tokens, handed_over(std::move(documents->lengths)));
}

inline pybind11::object end_documents(const pybind11::array& ids, const pybind11::array& bounds,
                                      std::optional<std::uint32_t> eos_id,
                                      std::uint32_t vocab_size, const pybind11::dtype& dtype) {
  namespace py = pybind11;
  if (dtype.equal(py::dtype::of<std::uint16_t>()))
    return ended<std::uint16_t>(ids, bounds, eos_id, vocab_size);
  require(dtype.equal(py::dtype::of<std::int32_t>()), "dtype must be uint16 or int32");
  return ended<std::int32_t>(ids, bounds, eos_id, vocab_size);
}

inline void bind_document_ends(pybind11::module_& m) {
  namespace py = pybind11;
  m.def("end_documents", &end_documents, py::arg("ids"), py::arg("bounds"), py::kw_only(),
        py::arg("eos_id").none(true), py::arg("vocab_size"), py::arg("dtype"),
        "Tokens with EOS after each text that does not end with it, and the lengths; or the "
        "largest id where it is not in the vocabulary.");
}

}  // namespace megacpt
