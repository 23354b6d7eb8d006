// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <vector>

#include "bind_arrays.h"
#include "near_duplicates.h"

namespace megacpt {

inline std::unique_ptr<ShingleFiles> shingle_files(const std::vector<std::string>& paths,
                                                   const std::vector<pybind11::array>& ends,
                                                   const std::vector<std::int64_t>& firsts) {
  std::vector<FileArray<std::int64_t>> views;
  for (const pybind11::array& array : ends)
    views.push_back(file_array<std::int64_t>(array, "ends"));
  return std::make_unique<ShingleFiles>(paths, std::move(views), firsts);
}

inline Buckets buckets_of(const pybind11::array& members, const pybind11::array& priorities,
                          const pybind11::array& ends) {
  return Buckets{file_array<std::int64_t>(members, "members"),
                 file_array<std::uint64_t>(priorities, "priorities"),
                 file_array<std::int64_t>(ends, "ends")};
}

// The memory of an array of one dimension that is written to.
template <typename T>
T* written(pybind11::array_t<T>& array, pybind11::ssize_t size, const char* name) {
  require(array.ndim() == 1 && array.size() == size && array.writeable() &&
              (array.flags() & pybind11::array::c_style),
          std::string(name) + " must be a contiguous array of one entry a document");
  return array.mutable_data();
}

inline void bind_near_duplicates(pybind11::module_& m) {
  namespace py = pybind11;
  py::class_<ShingleFiles>(m, "ShingleFiles", "Sorted uint32 sets of documents, in files.")
      .def(py::init(&shingle_files), py::arg("paths"), py::kw_only(), py::arg("ends"),
           py::arg("firsts"), py::keep_alive<1, 3>())
      .def("similarity", &ShingleFiles::similarity, py::arg("first"), py::arg("second"),
           "Jaccard of two documents.")
      .def_property_readonly("num_compared", &ShingleFiles::num_compared)
      .def(
          "drop_alike",
          [](ShingleFiles& files, const py::array& members, const py::array& priorities,
             const py::array& ends, double threshold, std::uint8_t rule,
             py::array_t<std::uint8_t> rules, py::array_t<std::int64_t> like) {
            const Buckets buckets = buckets_of(members, priorities, ends);
            buckets.check(rules.size());
            std::uint8_t* rule_of = written(rules, rules.size(), "rules");
            std::int64_t* like_of = written(like, rules.size(), "like");
            py::gil_scoped_release release;
            drop_alike(files, buckets, threshold, rule, rule_of, like_of);
          },
          py::arg("members"), py::kw_only(), py::arg("priorities"), py::arg("ends"),
          py::arg("threshold"), py::arg("rule"), py::arg("rules").noconvert(),
          py::arg("like").noconvert(),
          "Leave out what is like a document of its bucket that stays.")
      .def(
          "join_alike",
          [](ShingleFiles& files, const py::array& members, const py::array& priorities,
             const py::array& ends, double threshold, py::array_t<std::uint8_t> rules,
             py::array_t<std::int64_t> parents) {
            const Buckets buckets = buckets_of(members, priorities, ends);
            buckets.check(rules.size());
            const std::uint8_t* rule_of = written(rules, rules.size(), "rules");
            std::int64_t* parent_of = written(parents, rules.size(), "parents");
            py::gil_scoped_release release;
            join_alike(files, buckets, threshold, rule_of, parent_of);
          },
          py::arg("members"), py::kw_only(), py::arg("priorities"), py::arg("ends"),
          py::arg("threshold"), py::arg("rules").noconvert(), py::arg("parents").noconvert(),
          "Join the sets of documents that are like each other.");
}

}  // namespace megacpt
