# SPDX-License-Identifier: Apache-2.0
"""What tools/bench/curate.py measures with: a corpus, the truth about it, and peers."""
