// SPDX-License-Identifier: Apache-2.0
// NumPy arrays in and out of the plain headers.
#pragma once

#include <pybind11/numpy.h>

#include <string>
#include <utility>
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

template <typename T>
FileArray<T> view(const std::vector<T>& values) {
  return FileArray<T>(values.data(), static_cast<std::int64_t>(values.size()));
}

// The values as an array that owns them, without a copy.
template <typename T>
pybind11::array_t<T> handed_over(std::vector<T>&& values) {
  auto* owned = new std::vector<T>(std::move(values));
  const pybind11::capsule owner(owned, [](void* p) { delete static_cast<std::vector<T>*>(p); });
  return pybind11::array_t<T>(static_cast<pybind11::ssize_t>(owned->size()), owned->data(), owner);
}

}  // namespace megacpt
