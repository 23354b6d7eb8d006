// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <vector>

#include "bind_arrays.h"
#include "megatron_order.h"

namespace megacpt {

inline pybind11::tuple megatron_indices(const pybind11::array& lengths, std::uint32_t seed,
                                        std::int64_t sequence_length, std::int64_t num_epochs,
                                        bool separate_last_epoch) {
  namespace py = pybind11;
  const auto file_lengths = file_array<std::int32_t>(lengths, "lengths");
  MegatronSize size{file_lengths.size(), num_epochs, sequence_length, 0};
  {
    py::gil_scoped_release release;
    size.num_tokens_per_epoch = checked_total(file_lengths);
  }
  size.check();
  require(!separate_last_epoch || num_epochs > 1, "only one of several epochs can be separate");
  py::array_t<std::int32_t> documents(size.num_entries());
  py::array_t<std::int32_t> samples({size.num_samples() + 1, std::int64_t{2}});
  py::array_t<std::uint32_t> shuffle(size.num_samples());
  std::int32_t* document_index = documents.mutable_data();
  std::int32_t* sample_index = samples.mutable_data();
  std::uint32_t* shuffle_index = shuffle.mutable_data();
  {
    py::gil_scoped_release release;
    LegacyShuffler shuffler(seed);
    fill_document_index(size, separate_last_epoch, &shuffler, document_index);
    fill_sample_index(size, file_lengths, document_index, sample_index);
    fill_shuffle_index(size, separate_last_epoch, &shuffler, shuffle_index);
  }
  return py::make_tuple(documents, samples, shuffle);
}

inline pybind11::tuple megatron_blend(const std::vector<double>& weights,
                                      std::int64_t num_samples) {
  namespace py = pybind11;
  require(num_samples >= 0, "num_samples must be >= 0, got " + std::to_string(num_samples));
  py::array_t<std::int16_t> sources(num_samples);
  py::array_t<std::int64_t> samples(num_samples);
  std::int16_t* source = sources.mutable_data();
  std::int64_t* sample = samples.mutable_data();
  MegatronBlend blend(weights);
  {
    py::gil_scoped_release release;
    blend.fill(source, sample, num_samples);
  }
  return py::make_tuple(sources, samples);
}

inline void bind_megatron_order(pybind11::module_& m) {
  namespace py = pybind11;
  m.def("megatron_indices", &megatron_indices, py::arg("lengths"), py::kw_only(), py::arg("seed"),
        py::arg("sequence_length"), py::arg("num_epochs"), py::arg("separate_last_epoch"),
        "Document index, sample index and shuffle index of megatron-core's GPTDataset.");
  m.def("megatron_blend", &megatron_blend, py::arg("weights"), py::kw_only(),
        py::arg("num_samples"),
        "Source and number of each sample of megatron-core's BlendedDataset.");
}

}  // namespace megacpt
