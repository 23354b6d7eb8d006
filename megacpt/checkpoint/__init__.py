# SPDX-License-Identifier: Apache-2.0
"""Durable snapshots of a training state: megatron-core's sharded format, published by one rename."""
