# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that other trainers have written, as sources of weights."""
