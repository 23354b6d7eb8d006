# SPDX-License-Identifier: Apache-2.0
"""How a checkpoint is written: by a process of each rank, beside training."""
