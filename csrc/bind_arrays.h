// SPDX-License-Identifier: Apache-2.0
// NumPy arrays in and out of the plain headers.
#pragma once

#include <pybind11/numpy.h>

#include <string>
#include <vector>

#include "file_array.h"

namespace megacpt {

// A view of a one-dimensional array as it lies in memory, aligned or not, without a copy.
template <typename T>
FileArray<T> file_array(const pybind11::array& array, const char* name) {
  require(pybind11::isinstance<pybind11::array_t<T, pybind11::array::c_style>>(array) &&
              array.ndim() == 1,
          std::string(name) + " must be a contiguous array of one dimension and of type " +
              pybind11::cast<std::string>(pybind11::str(pybind11::dtype::of<T>())));
  return FileArray<T>(array.data(), array.size());
}

}  // namespace megacpt
