# SPDX-License-Identifier: Apache-2.0
"""Text to token ids and back, by the tokenizer.json of a Hugging Face folder."""

from megacpt.tokenizer.load import Tokenizer, load_tokenizer

__all__ = ["Tokenizer", "load_tokenizer"]
