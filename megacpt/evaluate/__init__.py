# SPDX-License-Identifier: Apache-2.0
"""Gain and forgetting of a run, judged against thresholds declared before training."""
