# SPDX-License-Identifier: Apache-2.0
"""Usefulness: questions that both models answer, and what the answers are worth."""
