# SPDX-License-Identifier: Apache-2.0
"""Tokens added to a model: its tokenizer, the rows of its tables, and which tokens are worth it."""
