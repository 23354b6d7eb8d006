# SPDX-License-Identifier: Apache-2.0
"""Records made into flowing text, by templates or a model, and code with its middle moved."""
