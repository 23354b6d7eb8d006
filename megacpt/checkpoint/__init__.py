# SPDX-License-Identifier: Apache-2.0
"""Durable snapshots of a training state in megatron-core's sharded format, published at once."""
