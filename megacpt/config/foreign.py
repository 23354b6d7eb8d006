# SPDX-License-Identifier: Apache-2.0
"""Names that other trainers use for what a setting says, for hints and for megacpt import-config.

Axolotl, transformers and TRL, Megatron-LM, NeMo and LLaMA-Factory. A row says which setting takes
the value, how the value changes where units differ, or why nothing takes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

Given = Mapping[str, Any]
"""All that the other trainer's file says, by its own names."""


class Change(Protocol):
    def __call__(self, value: Any, *, given: Given) -> Any: ...


class NoCounterpart(Exception):
    """A value that no setting can take; its text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counterpart:
    key: str = ""
    """The setting; empty: there is none."""
    change: Change | None = None
    """The value here; raises NoCounterpart, and KeyError for a value it needs beside its own."""
    note: str = ""
    """What differs, or why there is none."""


def counterpart_of(name: str) -> Counterpart | None:
    """What the last part of a name (``trainer.max_steps``, ``--lr-decay-style``) is here."""
    return COUNTERPARTS.get(plain_name(name))


def suggestion(name: str, *, value: object) -> str | None:
    """What to write instead of another trainer's name with its value; None if it is not known."""
    found = counterpart_of(name)
    if found is None:
        return None
    if not found.key:
        return f"leave it out: {found.note}"
    if found.change is None:
        return f"did you mean {found.key}" + f", {found.note}" * bool(found.note) + "?"
    try:
        here = found.change(value, given={plain_name(name): value})
        return f"did you mean {found.key}" + f"={here}" * (str(here) != str(value)) + "?"
    except NoCounterpart as why:
        return f"did you mean {found.key}? But {why}"
    except KeyError:
        return f"did you mean {found.key}, {found.note}?"


def plain_name(name: str) -> str:
    return name.rsplit(".", 1)[-1].lstrip("-").replace("-", "_").lower()


def is_yes(value: object) -> bool:
    return str(value).lower() in ("true", "yes", "on", "1", "auto", "full")


def number(value: object) -> float:
    """A number of a file, where numbers are still texts."""
    try:
        return float(str(value))
    except ValueError as error:
        raise NoCounterpart(f"{value} is not a number") from error


def _rate(given: Given) -> float:
    name = next(n for n in ("lr", "learning_rate", "") if n in given or not n)
    return number(given[name])


def _of_peak(value: Any, *, given: Given) -> float:
    peak = _rate(given)
    if not 0 <= number(value) <= peak or not peak:
        raise NoCounterpart("it is not between 0 and the peak")
    fraction = number(value) / peak
    return float(f"{fraction:.6g}")


def _chosen(**options: str) -> Change:
    """One of ours for each of theirs; the name is compared without signs and capitals."""

    def change(value: Any, *, given: Given) -> str:
        name = "".join(c for c in str(value).lower().rsplit(".", 1)[-1] if c.isalnum())
        if name not in options:
            raise NoCounterpart(f"{value} is not done here")
        return options[name]

    return change


def _if_on(value_here: Any, *, off: str = "it is off") -> Change:
    def change(value: Any, *, given: Given) -> Any:
        if not is_yes(value):
            raise NoCounterpart(off)
        return value_here

    return change


def _samples_to_steps(value: Any, *, given: Given) -> int:
    return max(round(number(value) / number(given["global_batch_size"])), 0)


def _samples_to_tokens(value: Any, *, given: Given) -> int:
    return round(number(value) * number(given["seq_length"]))


def _warmup_fraction(value: Any, *, given: Given) -> float:
    """Megatron's is a fraction of the decay, which may be shorter than the run."""
    decay = given.get("lr_decay_iters")
    if decay is None:
        return number(value)
    return float(f"{number(value) * number(decay) / number(given['train_iters']):.6g}")


def _steps(value: Any, *, given: Given) -> Any:
    if number(value) <= 0:
        raise NoCounterpart("it is off")
    return value


def _steps_or_share(value: Any, *, given: Given) -> int:
    if 0 < number(value) < 1:
        raise NoCounterpart("it is a share of the run; here it is a number of steps")
    return round(number(value))


def _virtual_stages(value: Any, *, given: Given) -> int:
    layers, stages = number(given["num_layers"]), number(given["pipeline_model_parallel_size"])
    return round(layers / stages / number(value))


def _whole_batch(value: Any, *, given: Given) -> int:
    micro = next(n for n in _MICRO_NAMES if n in given or n == _MICRO_NAMES[-1])
    return round(number(value) * number(given[micro]))


def _of_adapter(change: Change | None = None) -> Change:
    """What the other trainer heeds only where it trains an adapter."""

    def changed(value: Any, *, given: Given) -> Any:
        unnamed = "base_model" in given and "adapter" not in given
        full = str(given.get("finetuning_type")).lower() in ("full", "freeze")
        if unnamed or full or not is_yes(given.get("use_peft", True)):
            raise NoCounterpart("all weights are trained: the file asks for no adapter")
        return change(value, given=given) if change else value

    return changed


def _method(value: Any, *, given: Given) -> str:
    if str(value).lower() not in ("lora", "qlora"):
        raise NoCounterpart(f"{value} is not done here")
    return "dora" if any(is_yes(given.get(name)) for name in _DORA) else "lora"


def _targets(value: Any, *, given: Given) -> str:
    names = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return "all-linear" if names == "all" else names


_DORA = ("peft_use_dora", "use_dora")
_MICRO_NAMES = ("micro_batch_size", "per_device_train_batch_size")
_ADAM = (
    "adam adamw adamwtorch adamwtorchfused adamwhf adamwapexfused distributedfusedadam fusedadam "
    "adamw8bit adamwbnb8bit pagedadamw8bit pagedadamw32bit adamwtorch8bit"
)
_OPTIMIZERS = _chosen(**dict.fromkeys(_ADAM.split(" "), "adamw"), muon="muon", distmuon="muon")
_SHAPES = _chosen(
    cosine="cosine",
    cosinewithminlr="cosine",
    cosineannealing="cosine",
    linear="linear",
    constant="constant",
    constantwithwarmup="constant",
    inversesqrt="inverse_sqrt",
    inversesquareroot="inverse_sqrt",
    wsd="wsd",
    warmupstabledecay="wsd",
)
_DTYPES = _chosen(
    bf16="bf16", bfloat16="bf16", bf16mixed="bf16", fp32="fp32", float32="fp32", float="fp32"
)
_RECIPES = _chosen(
    delayed="delayed", tensorwise="tensorwise", blockwise="blockwise", mxfp8="mxfp8", nvfp4="nvfp4"
)
_BATCH_NOTE = (
    "all samples of a step over all ranks: micro batch size x accumulation x data-parallel ranks"
)
_TAKEN: tuple[tuple[str, str, Change | None, str], ...] = (
    ("run_dir", "output_dir save save_dir exp_dir", None, ""),
    ("seed", "random_seed", None, ""),
    (
        "model.path",
        "base_model model_name_or_path pretrained_model_name_or_path hf_model_path model_path",
        None,
        "",
    ),
    ("model.router_aux_loss_coef", "moe_aux_loss_coeff aux_loss_coeff", None, ""),
    ("optim.lr_peak", "learning_rate lr max_lr peak_lr", None, ""),
    ("optim.optimizer", "optim optim_type optimizer optimizer_type", _OPTIMIZERS, ""),
    ("optim.weight_decay", "weight_decay wd", None, ""),
    ("optim.beta1", "adam_beta1 beta_1", None, ""),
    ("optim.beta2", "adam_beta2 beta_2", None, ""),
    ("optim.eps", "adam_epsilon adam_eps epsilon", None, ""),
    (
        "optim.clip_grad_norm",
        "max_grad_norm clip_grad gradient_clip_val gradient_clipping grad_clip grad_norm_clip",
        None,
        "",
    ),
    ("optim.muon.momentum", "muon_momentum", None, ""),
    ("optim.muon.nesterov", "muon_use_nesterov", None, ""),
    ("optim.muon.newton_schulz_steps", "muon_num_ns_steps", None, ""),
    ("optim.offload", "optimizer_cpu_offload cpu_offload", None, ""),
    (
        "schedule.steps",
        "max_steps train_iters train_steps num_train_steps total_steps max_iters num_steps",
        _steps,
        "",
    ),
    ("schedule.epochs", "num_train_epochs num_epochs max_epochs train_epochs epochs", None, ""),
    ("schedule.tokens", "train_tokens max_train_tokens total_tokens", None, ""),
    (
        "schedule.tokens",
        "train_samples",
        _samples_to_tokens,
        "tokens: samples x sequence length",
    ),
    ("schedule.warmup_steps", "lr_warmup_iters num_warmup_steps warmup_iters", None, ""),
    (
        "schedule.warmup_steps",
        "lr_warmup_samples",
        _samples_to_steps,
        "steps: samples / global batch size",
    ),
    ("schedule.warmup_fraction", "warmup_ratio warmup_frac", None, ""),
    (
        "schedule.warmup_fraction",
        "lr_warmup_fraction",
        _warmup_fraction,
        "a fraction of all steps",
    ),
    (
        "schedule.shape",
        "lr_scheduler_type lr_scheduler lr_decay_style lr_schedule scheduler_type",
        _SHAPES,
        "",
    ),
    ("schedule.decay_steps", "lr_wsd_decay_iters num_decay_steps", None, ""),
    (
        "schedule.decay_steps",
        "lr_wsd_decay_samples",
        _samples_to_steps,
        "steps: samples / global batch size",
    ),
    (
        "schedule.lr_final_fraction",
        "min_lr lr_min",
        _of_peak,
        "a fraction of the peak: min_lr / lr",
    ),
    ("schedule.lr_final_fraction", "cosine_min_lr_ratio min_lr_ratio min_lr_rate", None, ""),
    (
        "schedule.lr_start_fraction",
        "lr_warmup_init",
        _of_peak,
        "a fraction of the peak: lr_warmup_init / lr",
    ),
    (
        "data.sequence_length",
        "seq_length sequence_len max_seq_length max_seq_len max_length seq_len block_size "
        "context_length cutoff_len model_max_length encoder_seq_length max_sequence_length",
        None,
        "",
    ),
    ("data.micro_batch_size", "per_device_train_batch_size device_batch_size", None, ""),
    (
        "data.global_batch_size",
        "train_batch_size total_batch_size batch_size global_train_batch_size",
        None,
        "",
    ),
    (
        "data.global_batch_size",
        "gradient_accumulation_steps accumulate_grad_batches grad_accum_steps",
        _whole_batch,
        _BATCH_NOTE,
    ),
    ("data.document_mask", "reset_attention_mask", None, ""),
    (
        "data.packing",
        "sample_packing packing",
        _if_on("concat", off="samples are always full here"),
        "documents follow each other; data.packing=best_fit cuts none",
    ),
    (
        "data.sources.NAME.prefix",
        "datasets dataset pretraining_dataset train_dataset data_path train_data_path train_files "
        "dataset_path train_data",
        None,
        "a shard that megacpt tokenize writes",
    ),
    (
        "evaluate.heldout.NAME.prefix",
        "eval_dataset test_datasets valid_data_path val_set_size validation_file split test_size",
        None,
        "a shard of text kept apart",
    ),
    (
        "parallel.tp",
        "tensor_model_parallel_size tensor_parallel_size tp_size tensor_parallel_degree tp_degree",
        None,
        "",
    ),
    (
        "parallel.pp",
        "pipeline_model_parallel_size pipeline_parallel_size pp_size pipeline_parallel_degree",
        None,
        "",
    ),
    ("parallel.cp", "context_parallel_size cp_size sequence_parallel_degree", None, ""),
    ("parallel.ep", "expert_model_parallel_size expert_parallel_size ep_size", None, ""),
    ("parallel.etp", "expert_tensor_parallel_size etp_size", None, ""),
    ("parallel.dp", "data_parallel_size dp_size data_parallel_replicate_degree", None, ""),
    ("parallel.vpp", "virtual_pipeline_model_parallel_size", None, ""),
    (
        "parallel.vpp",
        "num_layers_per_virtual_pipeline_stage",
        _virtual_stages,
        "stages: layers / pipeline ranks / layers of a stage",
    ),
    (
        "parallel.first_stage_layers",
        "decoder_first_pipeline_num_layers num_layers_in_first_pipeline_stage",
        None,
        "",
    ),
    (
        "parallel.last_stage_layers",
        "decoder_last_pipeline_num_layers num_layers_in_last_pipeline_stage",
        None,
        "",
    ),
    ("parallel.sequence_parallel", "sequence_parallel", None, ""),
    ("parallel.distributed_optimizer", "use_distributed_optimizer", None, ""),
    ("parallel.overlap_grad_reduce", "overlap_grad_reduce", None, ""),
    ("parallel.overlap_param_gather", "overlap_param_gather", None, ""),
    (
        "parallel.sharded_weights",
        "fsdp use_megatron_fsdp use_torch_fsdp2",
        _if_on(True),
        "ZeRO-3",
    ),
    (
        "parallel.recompute",
        "gradient_checkpointing activation_checkpointing recompute_activations",
        _if_on("full"),
        "",
    ),
    (
        "parallel.recompute",
        "recompute_granularity",
        _chosen(full="full", selective="selective"),
        "",
    ),
    ("parallel.recompute_layers", "recompute_num_layers", None, ""),
    (
        "precision.dtype",
        "bf16 bfloat16",
        _if_on("bf16", off="it is off; precision.dtype=fp32 is the other choice"),
        "",
    ),
    ("precision.dtype", "torch_dtype dtype", _DTYPES, ""),
    ("precision.recipe", "fp8_recipe", _RECIPES, ""),
    ("precision.fp8_format", "fp8 fp8_format", _chosen(hybrid="hybrid", e4m3="e4m3"), ""),
    ("precision.amax_history_length", "fp8_amax_history_len", None, ""),
    ("precision.bf16_first_layers", "num_layers_at_start_in_bf16", None, ""),
    ("precision.bf16_last_layers", "num_layers_at_end_in_bf16", None, ""),
    ("precision.fp8_param_gather", "fp8_param_gather fp8_param", None, ""),
    (
        "checkpoint.every_steps",
        "save_steps save_interval save_every save_freq every_n_train_steps",
        _steps_or_share,
        "",
    ),
    ("checkpoint.keep_last", "save_total_limit save_top_k keep_last_n_checkpoints", None, ""),
    ("checkpoint.asynchronous", "async_save", None, ""),
    (
        "evaluate.every_steps",
        "eval_steps eval_interval val_check_interval eval_every",
        _steps_or_share,
        "",
    ),
    (
        "monitor.log_every_steps",
        "logging_steps log_interval log_every_n_steps log_freq",
        _steps_or_share,
        "",
    ),
    ("monitor.wandb_project", "wandb_project", None, ""),
    ("monitor.wandb_entity", "wandb_entity", None, ""),
    ("monitor.wandb_name", "wandb_name wandb_exp_name wandb_run_name run_name", None, ""),
    (
        "monitor.wandb",
        "wandb_mode",
        _chosen(online="online", offline="offline", disabled="disabled"),
        "",
    ),
    ("cluster.nodes", "num_nodes nnodes", None, ""),
    ("adapter.method", "adapter finetuning_type", _of_adapter(_method), ""),
    ("adapter.method", "use_peft", _of_adapter(_if_on("lora")), ""),
    ("adapter.method", " ".join(_DORA), _of_adapter(_if_on("dora")), ""),
    ("adapter.rank", "lora_r lora_rank", _of_adapter(), ""),
    ("adapter.alpha", "lora_alpha", _of_adapter(), ""),
    ("adapter.dropout", "lora_dropout", _of_adapter(), ""),
    ("adapter.targets", "lora_target_modules lora_target", _of_adapter(_targets), ""),
    ("adapter.targets", "lora_target_linear", _of_adapter(_if_on("all-linear")), ""),
    ("adapter.rank_stabilised", "peft_use_rslora use_rslora", _of_adapter(_if_on(True)), ""),
    ("adapter.b_lr_multiplier", "loraplus_lr_ratio", _of_adapter(), ""),
    ("adapter.base", "load_in_4bit", _of_adapter(_if_on("nf4")), ""),
    ("adapter.base", "load_in_8bit", _of_adapter(_if_on("int8")), ""),
    ("cluster.gpus_per_node", "nproc_per_node gpus_per_node n_gpus_per_node devices", None, ""),
    ("cluster.timeout_minutes", "distributed_timeout_minutes", None, ""),
    (
        "cluster.timeout_minutes",
        "ddp_timeout",
        lambda value, *, given: number(value) / 60,
        "minutes: seconds / 60",
    ),
    ("cluster.time_limit_minutes", "exit_duration_in_mins", None, ""),
    ("kernels.manual_gc_steps", "manual_gc_interval gc_steps", None, ""),
    ("kernels.deterministic", "deterministic_mode full_determinism", None, ""),
    ("kernels.tp_comm_overlap", "tp_comm_overlap", None, ""),
    ("kernels.rope_fusion", "apply_rope_fusion", None, ""),
    ("kernels.grad_accum_fusion", "gradient_accumulation_fusion", None, ""),
    ("kernels.cross_entropy_fusion", "cross_entropy_loss_fusion", None, ""),
)
_WITHOUT: tuple[tuple[str, str], ...] = (
    (
        "config.json of model.path says it",
        "num_layers hidden_size ffn_hidden_size num_attention_heads num_query_groups kv_channels "
        "group_query_attention max_position_embeddings position_embedding_type rotary_base "
        "rotary_percent use_rotary_position_embeddings normalization norm_epsilon "
        "layernorm_epsilon swiglu gated_linear_unit activation_func disable_bias_linear "
        "add_bias_linear add_qkv_bias qk_layernorm untie_embeddings_and_output_weights "
        "make_vocab_size_divisible_by vocab_size num_experts num_moe_experts moe_ffn_hidden_size "
        "moe_router_topk moe_router_pre_softmax apply_layernorm_1p layernorm_zero_centered_gamma "
        "rotary_interleaved window_size model_type base_model_config openai_gelu squared_relu "
        "add_position_embedding init_method_std padded_vocab_size rope_scaling",
    ),
    (
        "the tokenizer is that of model.path",
        "tokenizer_type tokenizer_model tokenizer_config tokenizer_name_or_path vocab_file "
        "merge_file special_tokens tokens tokenizer_use_fast tiktoken_pattern vocab_extra_ids "
        "chat_template",
    ),
    (
        "adapter.train_embedding and adapter.train_head train the tables beside it",
        "lora_modules_to_save additional_target modules_to_save",
    ),
    ("adapters and all weights are what is trained", "gptq unfrozen_parameters lora_model_dir"),
    ("there is no dropout", "hidden_dropout attention_dropout neftune_noise_alpha"),
    (
        "there is no fp16; bf16 needs no loss scale",
        "fp16 float16 loss_scale initial_loss_scale min_loss_scale",
    ),
    (
        "megacpt chooses it for the device",
        "flash_attention attn_implementation sdp_attention xformers_attention use_flash_attn "
        "attention_backend transformer_impl tf32 torch_compile use_mcore_models use_legacy_models "
        "masked_softmax_fusion bias_swiglu_fusion bias_dropout_fusion distributed_backend "
        "cross_entropy_fusion_impl deepspeed fsdp_config accelerator_config ddp_backend "
        "persist_layer_norm moe_grouped_gemm moe_token_dispatcher_type batch_p2p_comm "
        "overlap_p2p_comm ckpt_format dist_ckpt_format manual_gc",
    ),
    (
        "the same run_dir goes on where it was; checkpoint.load_from begins with another run's",
        "resume_from_checkpoint auto_resume_from_checkpoints load finetune no_load_optim "
        "no_load_rng resume overwrite_output_dir",
    ),
    (
        "torchrun, srun or megacpt launch says it to the ranks",
        "node_rank master_addr master_port local_rank rdzv_id rdzv_backend rdzv_endpoint ddp",
    ),
    (
        "set a number of steps: checkpoint.every_steps or evaluate.every_steps",
        "saves_per_epoch evals_per_epoch save_strategy eval_strategy evaluation_strategy",
    ),
    (
        "the rate falls until the last step",
        "lr_decay_iters lr_decay_samples cosine_constant_lr_ratio",
    ),
    ("every step has data.global_batch_size; data.stages changes it", "rampup_batch_size"),
    ("the loss is that of every token", "eod_mask_loss train_on_inputs reset_position_ids"),
    ("megacpt shuffles by the seed", "dataloader_type data_seed group_by_length shuffle"),
    ("megacpt reads ahead itself", "num_workers dataloader_num_workers data_cache_path"),
    (
        "megacpt writes metrics.jsonl, a report and Weights & Biases",
        "report_to tensorboard_dir use_tensorboard log_throughput timing_log_level wandb_watch "
        "wandb_log_model wandb_save_dir use_wandb hub_model_id push_to_hub",
    ),
    ("megacpt evaluate takes whole sets", "eval_iters eval_batch_size per_device_eval_batch_size"),
    ("it describes where the other trainer runs", "dependencies env_vars"),
)


def _table() -> dict[str, Counterpart]:
    rows = {
        name: Counterpart(key=key, change=change, note=note)
        for key, names, change, note in _TAKEN
        for name in names.split()
    }
    without = {n: Counterpart(note=note) for note, names in _WITHOUT for n in names.split()}
    # Names that are the setting's own, in another section.
    own = {
        name: Counterpart(key=f"data.{name}") for name in ("micro_batch_size", "global_batch_size")
    }
    own["seed"] = Counterpart(key="seed")
    share = Counterpart(key="schedule.warmup_steps", change=_steps_or_share)
    own["warmup_steps"] = replace(share, note="schedule.warmup_fraction takes a share")
    return without | rows | own


COUNTERPARTS = _table()
