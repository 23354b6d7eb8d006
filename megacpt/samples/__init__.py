# SPDX-License-Identifier: Apache-2.0
"""Sample n of a run by arithmetic: order, blend, packed rows, batches, held-out windows."""
