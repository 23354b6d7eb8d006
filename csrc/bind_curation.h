// SPDX-License-Identifier: Apache-2.0
// Words, sketches and n-grams of Python's strings.
#pragma once

#include <pybind11/numpy.h>

#include <string>
#include <utility>
#include <vector>

#include "bind_arrays.h"
#include "jaccard.h"
#include "ngram_index.h"
#include "sketch.h"
#include "words.h"

namespace megacpt {

// Views of strings, which stay alive and as they are while this does, without Python's lock too.
class Texts {
 public:
  explicit Texts(const pybind11::list& list) : strings_(list) {
    texts_.reserve(strings_.size());
    for (const pybind11::handle& item : strings_) {
      PyObject* string = item.ptr();
      if (!PyUnicode_Check(string))
        throw pybind11::type_error("texts must be strings; item " +
                                   std::to_string(texts_.size()) + " is not");
      if (PyUnicode_READY(string) != 0) throw pybind11::error_already_set();
      texts_.push_back({PyUnicode_DATA(string),
                        static_cast<std::size_t>(PyUnicode_GET_LENGTH(string)),
                        static_cast<int>(PyUnicode_KIND(string)),
                        PyUnicode_IS_ASCII(string) != 0});
    }
  }

  const std::vector<Text>& views() const { return texts_; }

 private:
  pybind11::tuple strings_;  // a copy of the list: that may change meanwhile
  std::vector<Text> texts_;
};

// The arrays of Sketches, for Python.
struct SketchArrays {
  pybind11::array normalised, text_offsets, num_words, shingles, shingle_offsets, bands, hashes;
};

inline SketchArrays sketch(const SketchPlan& plan, const pybind11::list& list, bool normalised,
                           bool shingles, bool hashes) {
  namespace py = pybind11;
  const Texts texts(list);
  Sketches found(plan, {normalised, shingles, hashes});
  {
    py::gil_scoped_release release;
    found.add_all(texts.views());
  }
  const std::vector<py::ssize_t> shape{static_cast<py::ssize_t>(texts.views().size()),
                                       static_cast<py::ssize_t>(plan.bands())};
  return {handed_over(std::move(found.normalised)),
          handed_over(std::move(found.text_offsets)),
          handed_over(std::move(found.num_words)),
          handed_over(std::move(found.shingles)),
          handed_over(std::move(found.shingle_offsets)),
          handed_over(std::move(found.bands)).reshape(shape),
          handed_over(std::move(found.hashes))};
}

// A view of the rows of an array of so many columns, one after another.
template <typename T>
FileArray<T> rows_of(const pybind11::array& array, pybind11::ssize_t columns, const char* name) {
  require(pybind11::isinstance<pybind11::array_t<T, pybind11::array::c_style>>(array) &&
              array.ndim() == 2 && array.shape(1) == columns,
          std::string(name) + " must be a contiguous array of " + std::to_string(columns) +
              " columns and of type " +
              pybind11::cast<std::string>(pybind11::str(pybind11::dtype::of<T>())));
  return FileArray<T>(array.data(), array.size());
}

// Throws unless `offsets` are in order and within `size` entries; one at least.
inline void check_offsets(const FileArray<std::int64_t>& offsets, std::int64_t size) {
  require(offsets.size() >= 1, "offsets must not be empty");
  std::int64_t before = 0;
  for (std::int64_t n = 0; n < offsets.size(); ++n) {
    require(offsets[n] >= before && offsets[n] <= size, "offsets must rise within the sets");
    before = offsets[n];
  }
}

inline pybind11::array_t<double> similarities(const pybind11::array& shingles,
                                              const pybind11::array& offsets,
                                              const pybind11::array& pairs) {
  namespace py = pybind11;
  const auto sets = file_array<std::uint32_t>(shingles, "shingles");
  const auto bounds = file_array<std::int64_t>(offsets, "offsets");
  const auto flat = rows_of<std::int64_t>(pairs, 2, "pairs");
  require(reinterpret_cast<std::uintptr_t>(shingles.data()) % alignof(std::uint32_t) == 0,
          "shingles must be aligned");
  py::array_t<double> found(pairs.shape(0));
  double* out = found.mutable_data();
  {
    py::gil_scoped_release release;
    check_offsets(bounds, sets.size());
    const auto* first = static_cast<const std::uint32_t*>(sets.address(0));
    const auto set = [&](std::int64_t n) {
      require(n >= 0 && n < bounds.size() - 1, "pairs must be of sets that are there");
      return std::make_pair(first + bounds[n], static_cast<std::size_t>(bounds[n + 1] - bounds[n]));
    };
    for (std::int64_t n = 0; n < flat.size(); n += 2) {
      const auto one = set(flat[n]), other = set(flat[n + 1]);
      out[n / 2] = jaccard(one.first, one.second, other.first, other.second);
    }
  }
  return found;
}

// Hits by their parts, for Python.
struct HitArrays {
  pybind11::array documents, words, windows, starts, stops;
};

inline HitArrays find_ngrams(const NgramIndex& index, const pybind11::list& list) {
  namespace py = pybind11;
  const Texts texts(list);
  std::vector<NgramHit> hits;
  {
    py::gil_scoped_release release;
    index.find(texts.views(), hits);
  }
  const auto column = [&](std::int64_t NgramHit::*part) {
    std::vector<std::int64_t> values;
    values.reserve(hits.size());
    for (const NgramHit& hit : hits) values.push_back(hit.*part);
    return handed_over(std::move(values));
  };
  return {column(&NgramHit::document), column(&NgramHit::word), column(&NgramHit::window),
          column(&NgramHit::start), column(&NgramHit::stop)};
}

inline NgramIndex ngram_index(const pybind11::list& list, const pybind11::array& windows) {
  const Texts texts(list);
  const auto rows = rows_of<std::int64_t>(windows, 3, "windows");
  pybind11::gil_scoped_release release;
  return NgramIndex(texts.views(), rows);
}

inline void bind_curation(pybind11::module_& m) {
  namespace py = pybind11;
  m.attr("UNICODE_VERSION") = kUnicodeVersion;
  py::class_<SketchArrays>(m, "Sketches", "Of each text: its words, shingles and bands.")
      .def_readonly("normalised", &SketchArrays::normalised)
      .def_readonly("text_offsets", &SketchArrays::text_offsets)
      .def_readonly("num_words", &SketchArrays::num_words)
      .def_readonly("shingles", &SketchArrays::shingles)
      .def_readonly("shingle_offsets", &SketchArrays::shingle_offsets)
      .def_readonly("bands", &SketchArrays::bands)
      .def_readonly("hashes", &SketchArrays::hashes);
  py::class_<SketchPlan>(m, "Sketcher", "Makes what finds texts that are like each other.")
      .def(py::init<std::int64_t, std::int64_t, std::int64_t, std::uint64_t, std::int64_t>(),
           py::kw_only(), py::arg("words") = 5, py::arg("bands") = 0, py::arg("rows") = 0,
           py::arg("seed") = 0, py::arg("vector_bits") = 512)
      .def("sketch", &sketch, py::arg("texts"), py::kw_only(), py::arg("normalised") = true,
           py::arg("shingles") = true, py::arg("hashes") = false, "What is not wanted is empty.");
  m.def("similarities", &similarities, py::arg("shingles"), py::kw_only(), py::arg("offsets"),
        py::arg("pairs"), "Jaccard of pairs of the sets of Sketches; of two empty ones 0.");
  py::class_<HitArrays>(m, "Hits", "Windows that texts have, one entry each.")
      .def_readonly("documents", &HitArrays::documents)
      .def_readonly("words", &HitArrays::words)
      .def_readonly("windows", &HitArrays::windows)
      .def_readonly("starts", &HitArrays::starts)
      .def_readonly("stops", &HitArrays::stops);
  py::class_<NgramIndex>(m, "NgramIndex", "Windows of words, to be found in texts.")
      .def(py::init(&ngram_index), py::arg("texts"), py::kw_only(), py::arg("windows"))
      .def_property_readonly("first_equal",
                             [](const NgramIndex& index) {
                               auto copy = index.first_equal();
                               return handed_over(std::move(copy));
                             })
      .def("find", &find_ngrams, py::arg("texts"),
           "All windows in the texts, in the order of texts, words and lengths.");
}

}  // namespace megacpt
