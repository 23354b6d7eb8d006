# SPDX-License-Identifier: Apache-2.0
"""Families whose layers are mixtures of experts, one file each, and the rows they share."""
