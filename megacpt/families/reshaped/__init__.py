# SPDX-License-Identifier: Apache-2.0
"""Dense families whose layers are no longer Llama's: other norms, MLPs or orders of them."""
