# SPDX-License-Identifier: Apache-2.0
"""Linear layers whose weight is never trained and kept in four or eight bits.

    packed      the weight in these bits, and back
    product     the product with such a weight, as one function of autograd
    linear      megatron-core's layers with that product in place of their own

A weight's blocks never go beyond a row, so that a matrix which holds several of a Hugging Face
folder's, and one that is cut over ranks, have the same values as each of those by itself.
"""
