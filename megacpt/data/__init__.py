# SPDX-License-Identifier: Apache-2.0
"""Text to token shards, and token shards to the batches of a run."""
