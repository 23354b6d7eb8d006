# SPDX-License-Identifier: Apache-2.0
"""Tensors in the files of torch, found and read without unpickling anything but plain values."""
