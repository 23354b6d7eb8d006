# SPDX-License-Identifier: Apache-2.0
"""Families with the layer of Llama, which is one of them: the rows that all others vary."""
