# SPDX-License-Identifier: Apache-2.0
"""How much of each source a run takes: measured, planned, sampled down, written as a blend."""
