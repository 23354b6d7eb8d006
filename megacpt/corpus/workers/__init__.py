# SPDX-License-Identifier: Apache-2.0
"""Work on many passages at once: threads of a process, and processes."""
