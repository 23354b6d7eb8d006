# SPDX-License-Identifier: Apache-2.0
"""Whether two models are the same: by their tensors, and by what they compute."""
