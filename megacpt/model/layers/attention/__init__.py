# SPDX-License-Identifier: Apache-2.0
"""Attention: scores, the positions that turn queries and keys, a sample on several ranks."""
