# SPDX-License-Identifier: Apache-2.0
"""What watches a run: faults and spikes of steps, slow ranks, hangs."""
