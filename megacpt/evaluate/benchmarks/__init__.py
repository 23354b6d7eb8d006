# SPDX-License-Identifier: Apache-2.0
"""Benchmarks of lm-eval on the sharded model, and the engine that answers their questions."""
