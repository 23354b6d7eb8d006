# SPDX-License-Identifier: Apache-2.0
"""megacpt: continue the pretraining of an open Hugging Face model on your own text."""

__version__ = "0.1.0"
