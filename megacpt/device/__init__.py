# SPDX-License-Identifier: Apache-2.0
"""What a rank runs on: its place among the ranks, its device, and megatron-core on CPUs."""
