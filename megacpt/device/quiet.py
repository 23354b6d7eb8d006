# SPDX-License-Identifier: Apache-2.0
"""Show our own notes and no inventories, fallback notices or deprecations of the libraries."""

from __future__ import annotations

import logging
import warnings

from megacpt.device.environment import set_default

LIBRARIES = ("megatron", "torch", "transformers", "wandb", "bitsandbytes", "lm_eval", "datasets")


def quiet_libraries() -> None:
    """Call it before the libraries are imported, in a process that a person watches."""
    # Bars without a name, between lines of ours; read once, by an import.
    set_default("TQDM_DISABLE", value="1")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=rf"({'|'.join(LIBRARIES)})\.")
