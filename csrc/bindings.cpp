// SPDX-License-Identifier: Apache-2.0
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bind_batch.h"
#include "bind_curation.h"
#include "bind_document_ends.h"
#include "bind_megatron_order.h"
#include "bind_near_duplicates.h"
#include "bind_packing.h"
#include "blend.h"
#include "permutation.h"

namespace py = pybind11;

namespace {

using Int64Array = py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>;

py::array_t<std::int64_t> permute(const Int64Array& indices, std::int64_t size,
                                  std::uint64_t key) {
  if (indices.ndim() != 1)
    throw std::invalid_argument("indices must have one dimension, got " +
                                std::to_string(indices.ndim()));
  py::array_t<std::int64_t> images(indices.size());
  const std::int64_t* in = indices.data();
  std::int64_t* out = images.mutable_data();
  const py::ssize_t count = indices.size();
  {
    py::gil_scoped_release release;
    const megacpt::Permutation permutation(size, key);
    for (py::ssize_t n = 0; n < count; ++n) out[n] = permutation(in[n]);
  }
  return images;
}

py::tuple advance_blend(const std::vector<std::int64_t>& remainders, std::int64_t denominator,
                        const std::vector<std::int64_t>& lags, std::int64_t num_steps) {
  if (num_steps < 0)
    throw std::invalid_argument("num_steps must be >= 0, got " + std::to_string(num_steps));
  megacpt::Blend blend(remainders, denominator, lags);
  {
    py::gil_scoped_release release;
    for (std::int64_t n = 0; n < num_steps; ++n) blend.step();
  }
  return py::make_tuple(blend.drawn(), blend.lag());
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Words and their hashes, and the arithmetic of the data order. Every function has a twin in "
            "Python in tests/.";
  m.def("permute", &permute, py::arg("indices"), py::kw_only(), py::arg("size"), py::arg("key"),
        "Images of int64 indices under the keyed bijection of 0..size-1.");
  m.def("advance_blend", &advance_blend, py::arg("remainders"), py::kw_only(),
        py::arg("denominator"), py::arg("lags"), py::arg("num_steps"),
        "Apportion num_steps batches; return (extra samples a source drew, lags afterwards).");
  py::class_<megacpt::Permutation>(m, "Permutation", "A keyed bijection of 0..size-1.")
      .def(py::init<std::int64_t, std::uint64_t>(), py::arg("size"), py::kw_only(), py::arg("key"))
      .def("__call__", &megacpt::Permutation::operator(), py::arg("index"));
  megacpt::bind_batch(m);
  megacpt::bind_curation(m);
  megacpt::bind_document_ends(m);
  megacpt::bind_megatron_order(m);
  megacpt::bind_near_duplicates(m);
  megacpt::bind_packing(m);
}
