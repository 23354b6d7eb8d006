# SPDX-License-Identifier: Apache-2.0
"""A Hugging Face folder as a megatron-core model, on any layout, with every weight in its place."""
