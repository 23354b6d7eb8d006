# SPDX-License-Identifier: Apache-2.0
"""What makes megatron-core run on a CPU: its modules rewritten as they are imported."""
