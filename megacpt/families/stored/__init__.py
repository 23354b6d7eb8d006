# SPDX-License-Identifier: Apache-2.0
"""The weights that a Hugging Face folder stores: in which files, as which tensors of the model."""
