# SPDX-License-Identifier: Apache-2.0
"""What a run will do, worked out before any process exists: rules, schedule, tokens, memory."""
