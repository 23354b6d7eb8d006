# SPDX-License-Identifier: Apache-2.0
"""A trained model as a Hugging Face folder, with proof that it computes the same."""
