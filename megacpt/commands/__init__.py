# SPDX-License-Identifier: Apache-2.0
"""The verbs, a file for each group; megacpt.cli is their parser."""
