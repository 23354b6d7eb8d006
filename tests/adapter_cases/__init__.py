# SPDX-License-Identifier: Apache-2.0
"""What training of adapters is compared with: peft and plain torch on transformers' models.

``peft_twin.py`` has peft's methods, ``lora_xs_twin.py`` LoRA-XS, ``experts.py`` experts by
themselves, ``stacked.py`` what peft keeps of these, ``models.py`` the small models. Twins take the
same batches and the same settings of AdamW (``training.py``), and of a run its own (``run.py``).
"""
