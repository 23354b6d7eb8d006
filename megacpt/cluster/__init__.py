# SPDX-License-Identifier: Apache-2.0
"""Start ranks: on this machine now, as Slurm jobs later. No torch here."""
