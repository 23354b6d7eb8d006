# SPDX-License-Identifier: Apache-2.0
"""Show our own notes and no inventories, fallback notices or deprecations of the libraries."""

from __future__ import annotations

import logging
import warnings

from megacpt.device.environment import set_default

LIBRARIES = ("megatron", "torch", "transformers", "wandb", "bitsandbytes", "lm_eval", "datasets")

BARS = ("TQDM_DISABLE", "HF_DATASETS_DISABLE_PROGRESS_BARS")
"""Variables that take away bars without a name between lines of ours; read once, by an import."""


def quiet_libraries() -> None:
    """Call it before the libraries are imported, in a process that a person watches."""
    for name in BARS:
        set_default(name, value="1")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=rf"({'|'.join(LIBRARIES)})\.")
