# SPDX-License-Identifier: Apache-2.0
"""Families most of whose layers keep a state in place of attention, and the rows they share."""
