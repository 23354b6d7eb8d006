# SPDX-License-Identifier: Apache-2.0
"""The training run: megatron-core's schedules, optimizer and DDP driven step by step."""
