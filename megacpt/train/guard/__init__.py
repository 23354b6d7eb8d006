# SPDX-License-Identifier: Apache-2.0
"""Watchers of a run: faults and spikes of steps, slow ranks, hangs."""
