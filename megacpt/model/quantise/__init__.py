# SPDX-License-Identifier: Apache-2.0
"""Emulation on any device of the recipes in which Transformer Engine quantises matrix products.

A linear layer has three products: forward (x, w), data gradient (dy, w), weight gradient (dy, x).
Each quantises both operands; what differs between the recipes is which values share a scale, how
the scale is found and which numbers it leads to.

    numbers     the small number formats and how a value is rounded to them
    blocks      values that share a scale: a whole matrix, or blocks of it
    recipes     one class a recipe: the operands of the three products
    delayed     the recipe whose scales come from earlier steps, and its state
    product     the three products as one function of autograd
    linear      megatron-core's layers with that product in place of their own

The operands are the quantised values times their scales, exact in bfloat16 but for one factor a
matrix; products accumulate in float32. So the arithmetic is Transformer Engine's but for the order
of sums. Shapes: R rows, C columns of a matrix; a product contracts over its operands' columns or
over their rows, and blocks lie along that direction.
"""
