# SPDX-License-Identifier: Apache-2.0
"""Documents as token ids on disk, in Megatron's format: written, read, checked, merged."""
