# SPDX-License-Identifier: Apache-2.0
"""The verbs, a file for each group; megacpt.cli is their parser.

A verb calls one function, says what was written where and what comes next. Everything heavy is
imported inside it, so that ``megacpt --help`` is instant and verbs of a login node load no torch.
"""
