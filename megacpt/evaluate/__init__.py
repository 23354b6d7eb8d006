# SPDX-License-Identifier: Apache-2.0
"""What a run gained and what it forgot, judged against thresholds declared before training."""
