# SPDX-License-Identifier: Apache-2.0
"""Every setting of a run: one dataclass a section, each field with its unit and one line of why.

The tree is the schema Hydra composes into and the form ``RUN_DIR/run.yaml`` is read back into.
``None`` means "not set". Sizes are in tokens, samples or steps as the name says.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from megacpt.config.limits import COUNT, NOT_NEGATIVE, POSITIVE, Limits, limited, required

FRACTION_OF_RUNNING_MEAN = Limits(at_least=0, below=1, remedy="0.9 to 0.999 is usual")
FEWEST_SPIKE_STEPS = Limits(at_least=4)
"""A line and a spread of fewer values say nothing."""
STEPS = Limits(at_least=0, rule="is below 1", remedy="use 1 or more")
STAGE_BEGIN = Limits(
    at_least=1, remedy="use 1 or more; what holds from the start is set in data itself"
)
REPLAY_SHARE = Limits(
    above=0, below=1, remedy="0.05 to 0.2 is usual; data.replay=null trains without replay"
)
PENALTY = Limits(at_least=1, remedy="1.2 is usual; 1 leaves the model's choice as it is")
CONFIDENCE = Limits(above=0.5, below=1, remedy="0.95 is usual")
SHARE = Limits(at_least=0, at_most=1)
TURING = Limits(choices=("turing_flash", "turing_small", "turing_large"))
TOPIC = Limits(choices=("plant", "kitchen"), rule="is not a topic of the generator")


class Init(Enum):
    """Origin of the first weights; anything but ``pretrained`` must be asked for by name."""

    pretrained = "pretrained"
    random = "random"


class Objective(Enum):
    """``sft``: of conversations (``megacpt tokenize --chat``) only what the assistant says is
    learned; raw text beside them as in pretraining."""

    pretraining = "pretraining"
    sft = "sft"


class RopeKind(Enum):
    """How rotary positions are stretched; ``default``: by a larger ``theta`` alone."""

    default = "default"
    linear = "linear"
    llama3 = "llama3"
    yarn = "yarn"


class Dtype(Enum):
    """Arithmetic of the forward and backward pass."""

    fp32 = "fp32"
    bf16 = "bf16"


class Recipe(Enum):
    """How the operands of the layers' matrix products are quantised; ``none``: not at all."""

    none = "none"
    delayed = "delayed"
    tensorwise = "tensorwise"
    blockwise = "blockwise"
    mxfp8 = "mxfp8"
    nvfp4 = "nvfp4"


class Fp8Format(Enum):
    """``hybrid``: e4m3 forward, e5m2 for gradients."""

    hybrid = "hybrid"
    e4m3 = "e4m3"


class Recompute(Enum):
    """What the backward pass computes again instead of keeping."""

    none = "none"
    selective = "selective"
    full = "full"


class Optimizer(Enum):
    adamw = "adamw"
    muon = "muon"


class LrShape(Enum):
    """The learning rate after warmup; ``wsd``: stable, then decay in the last steps."""

    cosine = "cosine"
    linear = "linear"
    wsd = "wsd"
    constant = "constant"
    inverse_sqrt = "inverse_sqrt"


class AdapterMethod(Enum):
    """What is trained beside frozen weights; ``lora_xs`` (https://arxiv.org/abs/2405.17604) and
    ``pissa`` (https://arxiv.org/abs/2404.02948) begin with the weights' singular vectors."""

    lora = "lora"
    dora = "dora"
    lora_xs = "lora_xs"
    pissa = "pissa"


class BaseWeights(Enum):
    """What a frozen weight is kept as."""

    nf4 = "nf4"
    """One of sixteen values for each, and a scale a block of 64 of a row."""
    int8 = "int8"
    """A whole number from -127 to 127 for each, and a scale a row."""


class FaultPolicy(Enum):
    """What a step with a bad loss or gradient leads to."""

    ignore = "ignore"
    stop = "stop"
    skip = "skip"
    rollback = "rollback"


class PreflightWhen(Enum):
    """``nodes``: if the run has several nodes; ``always``: on a single node too."""

    never = "never"
    nodes = "nodes"
    always = "always"


class BadNodePolicy(Enum):
    """What to do about a bad node: end the run and name it, or warn and go on."""

    stop = "stop"
    warn = "warn"


class SaveErrorPolicy(Enum):
    """What a checkpoint that cannot be written leads to."""

    go_on = "go_on"
    stop = "stop"


class UsefulnessMetric(Enum):
    """How an answer is scored, from 0 to 1."""

    exact_match = "exact_match"
    """It is the reference, but for case, spaces and a full stop."""
    contains = "contains"
    """The reference is in it."""
    chrf = "chrf"
    """chrF of sacrebleu: characters in common, for any script."""
    bleu = "bleu"
    """BLEU of sacrebleu, of a sentence."""
    rouge_l = "rouge_l"
    """ROUGE-L of rouge-score, over words, or characters where a script has no spaces."""
    judge = "judge"
    """A model prefers it to the other model's, in both orders."""
    future_agi = "future_agi"
    """A metric of the package ai-evaluation."""


class DeviceKind(Enum):
    """What the ranks run on; ``auto`` takes CUDA where a device is visible."""

    auto = "auto"
    cpu = "cpu"
    gpu = "gpu"


class ContainerRuntime(Enum):
    """``pyxis``: srun's own --container-image, with enroot; ``apptainer``: apptainer exec."""

    pyxis = "pyxis"
    apptainer = "apptainer"


class Packing(Enum):
    """How documents fill the samples."""

    concat = "concat"
    best_fit = "best_fit"


class SampleOrder(Enum):
    """Which sample comes when: by arithmetic, or as Megatron's own datasets would."""

    keyed = "keyed"
    megatron = "megatron"


class MissingPolicy(Enum):
    """What is done about text that has not been through the steps that are demanded."""

    refuse = "refuse"
    warn = "warn"


class GateAction(Enum):
    """What a retention suite that drops during training leads to: a line in the report, or the end
    of the run."""

    report = "report"
    stop = "stop"


class WandbMode(Enum):
    """``auto``: online where WANDB_API_KEY is set, offline otherwise."""

    auto = "auto"
    online = "online"
    offline = "offline"
    disabled = "disabled"


@dataclass(kw_only=True, slots=True)
class RopeConfig:
    factor: float = field(
        metadata=required(Limits(at_least=1, remedy="2 to 8 is usual; 4 makes 32768 of 8192"))
    )
    """The model's new positions, in the length it was trained on before it was stretched."""
    kind: RopeKind = RopeKind.yarn
    """What is done to the frequencies."""
    original_max_positions: int | None = limited(None, limits=COUNT)
    """That length; not set: what config.json states of it, else its max_position_embeddings."""
    theta: float | None = limited(None, limits=POSITIVE)
    """Base of the frequencies; not set: the model's own."""


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    path: str | None = None
    """Hugging Face folder (config.json, tokenizer.json, *.safetensors), or ORG/NAME of the hub,
    also with @REVISION."""
    init: Init = Init.pretrained
    """``random`` reads config.json and the tokenizer of ``path`` but no weights."""
    allow_unhealthy: bool = False
    """Go on even if the health check of the import found, for example, near-zero embedding rows."""
    router_aux_loss_coef: float | None = limited(
        None,
        limits=Limits(
            at_least=0,
            rule="is not a number from 0 up",
            remedy="0.001 to 0.02 is usual, null takes the base model's",
        ),
    )
    """Weight of each layer's load-balancing loss (experts); not set: the base model's own."""
    rope: RopeConfig | None = None
    """Other rotary positions than the model's own, for longer samples; they go into its export."""


@dataclass(kw_only=True, slots=True)
class AdapterConfig:
    method: AdapterMethod = AdapterMethod.lora
    """What the update of a frozen weight is made of."""
    rank: int = limited(16, limits=COUNT)
    """Of the update of each linear layer."""
    alpha: float = limited(32.0, limits=POSITIVE)
    """The update is multiplied by alpha / rank."""
    rank_stabilised: bool = False
    """By alpha / sqrt(rank) instead (rsLoRA, https://arxiv.org/abs/2312.03732)."""
    dropout: float = limited(0.0, limits=Limits(at_least=0, below=1, remedy="0 to 0.1 is usual"))
    """Share of a layer's inputs that its update does not see in a training step."""
    targets: str = "all-linear"
    """Modules by their Hugging Face names, as PEFT matches them: ends of names separated by commas
    (``q_proj,v_proj``), a regular expression of whole names, or ``all-linear``: every linear layer
    but head and routers."""
    layers: str | None = None
    """Their numbers from 0, as in ``0-3,7``; not set: all."""
    b_lr_multiplier: float = limited(1.0, limits=NOT_NEGATIVE)
    """Multiplier on the learning rate of the factors that begin with zero (LoRA+,
    https://arxiv.org/abs/2402.12354); 1: none."""
    base: BaseWeights | None = None
    """What the layers' frozen weights are kept as; not set: ``precision.dtype``."""
    train_embedding: bool = False
    """Train the input embedding as well, with optim.embedding_lr_multiplier."""
    train_head: bool = False
    """Train an untied head as well, with optim.head_lr_multiplier."""
    new_tokens_from: int | None = limited(None, limits=COUNT)
    """Of embedding and head train only rows of this token id and above, such as ``megacpt
    vocabulary --add`` appends; they do not decay. Not set: all rows."""
    load_from: str | None = None
    """PEFT folder of a LoRA, rsLoRA or DoRA adapter to begin with, whose settings are the same."""


@dataclass(kw_only=True, slots=True)
class SyntheticConfig:
    documents: int = limited(400, limits=COUNT)
    """Number of generated documents."""
    seed: int = 1
    """Seed of the generator; two sources with different seeds share no document."""
    topic: str = limited("plant", limits=TOPIC)
    """Vocabulary of the text, so that sources can differ."""


@dataclass(kw_only=True, slots=True)
class SourceConfig:
    prefix: str | None = None
    """Token shard without its .bin/.idx ending, as written by ``megacpt tokenize``."""
    synthetic: SyntheticConfig | None = None
    """Generated text instead of a shard, written to RUN_DIR/data when the run starts."""
    weight: float = 1.0
    """Share among the sources that are not replay; weights need not sum to one. 0: takes part only
    in the stages that name it."""
    max_epochs: float | None = limited(
        None, limits=Limits(above=0, remedy="use a positive number, or {path}=null for no cap")
    )
    """Most passes through the source; a run that would make more is refused. Not set: no cap."""
    require: str | None = None
    """Instead of ``data.require``; ``none``: nothing."""


@dataclass(kw_only=True, slots=True)
class ReplayConfig:
    source: str
    """Name of one of ``data.sources``: text like what the base model was trained on."""
    share: float = field(metadata=required(REPLAY_SHARE))
    """Fraction of the samples of every global batch; 0.05 to 0.2 is usual."""


@dataclass(kw_only=True, slots=True)
class StageSourceConfig:
    weight: float = limited(
        1.0,
        limits=Limits(
            above=0, remedy="use a positive weight, or leave the source out of the stage"
        ),
    )
    """Share among the stage's sources that are not replay."""


@dataclass(kw_only=True, slots=True)
class StageConfig:
    from_step: int | None = limited(None, limits=STAGE_BEGIN)
    """Optimizer steps done before the stage begins; set this or ``from_tokens``."""
    from_tokens: int | None = limited(None, limits=STAGE_BEGIN)
    """The stage begins with the first step after this many tokens of samples."""
    sources: dict[str, StageSourceConfig] = field(default_factory=dict)
    """The sources that take part and their weights; none named: as in the stage before."""
    replay_share: float | None = limited(
        None, limits=Limits(above=0, below=1, remedy="0.05 to 0.2 is usual")
    )
    """Replay's fraction of each global batch from here on; not set: as before."""
    sequence_length: int | None = limited(None, limits=COUNT)
    """Tokens a sample from here on; not set: as before."""
    global_batch_size: int | None = limited(None, limits=COUNT)
    """Samples an optimizer step from here on; not set: as before."""


@dataclass(kw_only=True, slots=True)
class DataConfig:
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    """Name -> token shard and weight."""
    replay: ReplayConfig | None = None
    """The replay source and its share; its ``weight`` is not used."""
    stages: dict[str, StageConfig] = field(default_factory=dict)
    """Name -> what changes at which step; past stages cannot be edited when a run resumes."""
    packing: Packing = Packing.concat
    """``best_fit`` cuts no document that fits; it needs ``megacpt pack`` for the length."""
    order: SampleOrder = SampleOrder.keyed
    """``megatron`` repeats the sample order of megatron-core's GPTDataset and BlendedDataset."""
    document_mask: bool = False
    """Let attention see only the token's own document."""
    prefetch_steps: int = limited(2, limits=NOT_NEGATIVE)
    """Global batches read ahead in the background; 0: read each when it is needed."""
    chunk_length: int | None = limited(None, limits=COUNT)
    """Tokens shuffled together as one chunk; not set: the longest sequence length of all stages."""
    sequence_length: int = limited(512, limits=COUNT)
    """Tokens a sample."""
    global_batch_size: int = limited(8, limits=COUNT)
    """Samples an optimizer step, over all ranks."""
    micro_batch_size: int = limited(1, limits=COUNT)
    """Samples a forward pass on one rank."""
    require: str | None = None
    """What must have been done to the text of every source, by the record in its shard: some of
    ``filtered``, ``deduplicated``, ``decontaminated``, ``decontaminated:SUITE``, ``rewritten`` and
    ``balanced``, separated by commas. Not set: nothing."""
    on_missing: MissingPolicy = MissingPolicy.refuse
    """What to do about a source that lacks it."""


@dataclass(kw_only=True, slots=True)
class ParallelConfig:
    tp: int = limited(1, limits=COUNT)
    """Tensor-parallel ranks: each layer is cut over this many."""
    pp: int = limited(1, limits=COUNT)
    """Pipeline-parallel ranks: the layers are dealt to this many stages."""
    vpp: int = limited(1, limits=COUNT)
    """Virtual stages a pipeline rank holds (interleaved schedule when above 1)."""
    dp: int = limited(1, limits=COUNT)
    """Data-parallel replicas; the run has tp * cp * pp * dp ranks."""
    cp: int = limited(1, limits=COUNT)
    """Context-parallel ranks: each sample is cut over this many."""
    ep: int = limited(1, limits=COUNT)
    """Expert-parallel ranks: the experts are dealt to this many of a stage's tp * cp * dp."""
    etp: int | None = limited(None, limits=COUNT)
    """Tensor-parallel ranks an expert is cut over; not set: parallel.tp."""
    first_stage_layers: int | None = limited(None, limits=COUNT)
    """Layers on the first pipeline stage; not set: an even share."""
    last_stage_layers: int | None = limited(None, limits=COUNT)
    """Layers on the last pipeline stage; not set: an even share."""
    sequence_parallel: bool = False
    """Also cut norms and residuals over the tensor-parallel ranks, along the sequence."""
    distributed_optimizer: bool = False
    """Cut the optimizer state over the data-parallel ranks (ZeRO-1)."""
    overlap_grad_reduce: bool = False
    """Reduce gradients while the backward pass still runs."""
    overlap_param_gather: bool = False
    """Gather updated weights while the forward pass runs (needs distributed_optimizer)."""
    sharded_weights: bool = False
    """Cut weights and gradients over the data-parallel ranks too (ZeRO-3)."""
    recompute: Recompute = Recompute.none
    """``selective`` recomputes what is cheap; ``full`` keeps only the inputs of the layers."""
    recompute_layers: int | None = limited(None, limits=COUNT)
    """Layers of a stage that ``full`` recomputes; not set: all."""

    @property
    def num_ranks(self) -> int:
        """Ranks of the run; expert parallelism adds none."""
        return self.tp * self.cp * self.pp * self.dp


@dataclass(kw_only=True, slots=True)
class PrecisionConfig:
    dtype: Dtype = Dtype.bf16
    """bf16 keeps fp32 master weights and fp32 gradients."""
    recipe: Recipe = Recipe.none
    """Transformer Engine's recipe on GPUs, its emulation on CPUs; needs bf16."""
    fp8_format: Fp8Format | None = None
    """Number format of the fp8 recipes; not set: hybrid where a whole matrix has one scale
    (``delayed``, ``tensorwise``), e4m3 where each block has."""
    amax_history_length: int = limited(1024, limits=COUNT)
    """Forward passes (microbatches) whose largest absolute value sets the scale (``delayed``)."""
    bf16_first_layers: int = limited(0, limits=NOT_NEGATIVE)
    """Layers at the start of the model that stay in bf16 (not with ``delayed``)."""
    bf16_last_layers: int = limited(0, limits=NOT_NEGATIVE)
    """Layers at the end of the model that stay in bf16 (not with ``delayed``)."""
    fp8_param_gather: bool = False
    """GPU: keep and gather the weights in fp8 (needs distributed_optimizer)."""


@dataclass(kw_only=True, slots=True)
class MuonConfig:
    momentum: float = limited(0.95, limits=FRACTION_OF_RUNNING_MEAN)
    """Decay of the running mean of the gradient."""
    nesterov: bool = True
    """Look one step ahead along the momentum."""
    newton_schulz_steps: int = limited(5, limits=COUNT)
    """Iterations that make the update's singular values about one."""
    scale: str = limited("spectral", limits=Limits(choices=("spectral", "unit_rms_norm")))
    """How the size of the update follows the shape of a matrix."""
    lr_multiplier: float = limited(1.0, limits=NOT_NEGATIVE)
    """Multiplier on the learning rate of the matrices Muon updates; all others are AdamW's."""


@dataclass(kw_only=True, slots=True)
class OptimConfig:
    optimizer: Optimizer = Optimizer.adamw
    """``muon`` updates the matrices of the layers, and AdamW everything else."""
    muon: MuonConfig = field(default_factory=MuonConfig)
    lr_peak: float = limited(2e-5, limits=POSITIVE)
    """Learning rate after warmup; continued pretraining wants 5e-6 to 5e-5."""
    beta1: float = limited(0.9, limits=FRACTION_OF_RUNNING_MEAN)
    """AdamW's decay of the gradient's running mean."""
    beta2: float = limited(0.95, limits=FRACTION_OF_RUNNING_MEAN)
    """AdamW's decay of the squared gradient's running mean."""
    eps: float = limited(1e-8, limits=POSITIVE)
    """Added to the root of the squared gradient's running mean, against division by zero."""
    weight_decay: float = limited(0.1, limits=NOT_NEGATIVE)
    """Decoupled weight decay; norms and biases are excluded."""
    clip_grad_norm: float = limited(1.0, limits=NOT_NEGATIVE)
    """Largest global L2 norm of the gradient; 0 turns clipping off."""
    embedding_lr_multiplier: float = limited(1.0, limits=NOT_NEGATIVE)
    """Multiplier on the learning rate of the input embedding."""
    head_lr_multiplier: float = limited(1.0, limits=NOT_NEGATIVE)
    """Multiplier on the learning rate of an untied head."""
    decay_embeddings: bool = True
    """Apply weight decay to the embedding and the head as well."""
    decay_norms: bool = False
    """Apply weight decay to norms and biases as well."""
    offload: bool = False
    """Keep the optimizer state in host memory and update there."""
    base_lr_peak: float | None = limited(None, limits=POSITIVE)
    """Peak learning rate of the base model's pretraining; ``megacpt plan`` compares lr_peak."""


@dataclass(kw_only=True, slots=True)
class ScheduleConfig:
    steps: int = limited(100, limits=STEPS)
    """Optimizer steps of the whole run; set this, ``epochs`` or ``tokens``. 0: one of those."""
    epochs: float | None = limited(None, limits=POSITIVE)
    """The run ends when the domain samples it has drawn are this many times those that all sources
    but replay hold together; run.yaml has the steps."""
    tokens: int | None = limited(None, limits=COUNT)
    """The run ends with the first step that reaches so many tokens of samples, replay's too;
    run.yaml has the steps."""
    warmup_steps: int = limited(5, limits=NOT_NEGATIVE)
    """Steps of linear warmup to lr_peak; set this or ``warmup_fraction``."""
    warmup_fraction: float | None = limited(
        None, limits=Limits(at_least=0, below=1, remedy="0.01 to 0.1 is usual")
    )
    """Fraction of all steps that is warmup, rounded up; run.yaml has the steps."""
    shape: LrShape = LrShape.cosine
    """How the learning rate falls after warmup."""
    decay_steps: int = limited(0, limits=NOT_NEGATIVE)
    """Number of last steps in which ``wsd`` falls as 1 - sqrt; before them it stays at lr_peak."""
    lr_start_fraction: float = limited(
        0.0, limits=Limits(at_least=0, at_most=1, remedy="0 is usual")
    )
    """Warmup starts at this fraction of lr_peak, for example where a previous run ended."""
    lr_final_fraction: float | None = limited(
        None, limits=Limits(at_least=0, at_most=1, remedy="0.1 is usual")
    )
    """Fraction of lr_peak at the last step of cosine, linear or wsd; not set: 0.1."""

    @property
    def is_open(self) -> bool:
        """Whether ``steps`` or ``warmup_steps`` are still to be worked out."""
        return any(v is not None for v in (self.epochs, self.tokens, self.warmup_fraction))


@dataclass(kw_only=True, slots=True)
class FaultsConfig:
    nonfinite: FaultPolicy = FaultPolicy.rollback
    """What to do when a loss or gradient norm is NaN or infinite; ``ignore`` is refused."""
    spike: FaultPolicy = FaultPolicy.skip
    """What to do when a loss or gradient norm is far above those of the last steps."""
    spike_z: float = limited(
        12.0, limits=Limits(above=0, rule="is not a positive number", remedy="6 to 20 is usual")
    )
    """Robust standard deviations (1.4826 * MAD) above the last steps' trend that make a spike."""
    spike_window_steps: int = limited(64, limits=FEWEST_SPIKE_STEPS)
    """Good steps of the current stage that give the trend and its spread; at most 1024."""
    spike_min_steps: int = limited(16, limits=FEWEST_SPIKE_STEPS)
    """Good steps that must be known before a step can be called a spike."""
    rollback_skip_steps: int = limited(4, limits=COUNT)
    """Steps whose samples are skipped after a rollback; the last of them is the step at fault."""
    rollback_lr_factor: float = limited(
        1.0, limits=Limits(above=0, at_most=1, remedy="1 keeps the rate, 0.5 halves it")
    )
    """Each rollback multiplies the learning rate by this, from its checkpoint on."""
    max_events: int = limited(5, limits=NOT_NEGATIVE)
    """Skips and rollbacks allowed within ``spike_window_steps`` steps; one more ends the run."""
    excerpt_tokens: int = limited(48, limits=COUNT)
    """Tokens of each offending sample that are decoded into the record of the event."""
    straggler_factor: float = limited(1.5, limits=COUNT)
    """Name the slowest rank once it takes this many times the median rank's time."""
    hang_minutes: float = limited(0.0, limits=NOT_NEGATIVE)
    """Minutes without a sign of life after which all ranks write their stacks and end with exit
    code 75; 0: nine tenths of cluster.timeout_minutes."""


@dataclass(kw_only=True, slots=True)
class LoadConfig:
    weights: bool = True
    """Take its weights instead of the base model's."""
    optimizer: bool = False
    """Take both moments, fp32 master weights and the number of updates; needs the weights."""
    schedule: bool = False
    """Go on with its next step, in this run's own schedule; false: begin with step 1."""
    data: bool = False
    """Draw the samples that come after its last ones; false: begin with the first sample."""


@dataclass(kw_only=True, slots=True)
class CheckpointConfig:
    every_steps: int = limited(50, limits=COUNT)
    """Steps between two saves; the end is saved as well."""
    keep_last: int = limited(2, limits=COUNT)
    """Number of newest checkpoints that stay on disk."""
    keep_every_steps: int = limited(0, limits=NOT_NEGATIVE)
    """Checkpoints of steps that this divides are never deleted; 0: none for this reason."""
    keep_best: bool = False
    """Keep the checkpoint with the lowest loss on evaluate.domain (evaluate.general if not set),
    among those saved at a step whose held-out losses were measured."""
    asynchronous: bool = True
    """Go on training while a checkpoint is written; false: wait, without host memory for a copy."""
    on_error: SaveErrorPolicy = SaveErrorPolicy.go_on
    """``go_on`` warns and saves again when the next save is due; the third failure in a row and one
    at the end stop the run all the same."""
    save_before_end_s: float = 0.0
    """Seconds before the time limit at which the run saves and ends; 0: three times the longer of a
    step and the last save, plus 30 s."""
    load_from: str | None = None
    """Warm start: another run's folder (its newest checkpoint) or one of its checkpoints; read
    once, when the run begins."""
    load: LoadConfig = field(default_factory=LoadConfig)
    """What is taken from it; everything else is this run's own."""


@dataclass(kw_only=True, slots=True)
class MonitorConfig:
    log_every_steps: int = limited(1, limits=COUNT)
    """Steps between two lines on the terminal."""
    wandb: WandbMode = WandbMode.auto
    """``auto``: as WANDB_MODE says; else online where WANDB_API_KEY is set, or offline."""
    wandb_project: str | None = None
    """Weights & Biases project of the run; not set: WANDB_PROJECT, else megacpt."""
    wandb_entity: str | None = None
    """Team or user; not set: WANDB_ENTITY, else the account's own default."""
    wandb_name: str | None = None
    """Name of the run there; not set: WANDB_NAME, else the name of the run folder."""


@dataclass(kw_only=True, slots=True)
class HeldoutConfig:
    prefix: str | None = None
    """Token shard of documents that are in no training source."""
    synthetic: SyntheticConfig | None = None
    """Generated text instead of a shard."""
    max_tokens: int = limited(20_000, limits=NOT_NEGATIVE)
    """Tokens measured, from the start of the shard; 0: all of them."""


@dataclass(kw_only=True, slots=True)
class GateConfig:
    domain_perplexity_ratio_max: float | None = limited(None, limits=POSITIVE)
    """Largest perplexity on the domain set, final over base, that passes ``megacpt evaluate``."""
    general_perplexity_ratio_max: float | None = limited(None, limits=POSITIVE)
    """Largest perplexity on the general set, final over base: how much may be forgotten."""
    forgetting_max_nats: float | None = limited(None, limits=NOT_NEGATIVE)
    """Largest loss on the general set, final minus base, in nats a token."""
    retention_drop_max_points: float | None = limited(None, limits=NOT_NEGATIVE)
    """Largest drop of a retention suite's score, in points (hundredths), that is surely not
    exceeded."""
    gain_min_points: float | None = limited(None, limits=NOT_NEGATIVE)
    """Smallest gain of a gain suite's score, in points, that is surely reached."""
    usefulness_drop_max_points: float | None = limited(None, limits=NOT_NEGATIVE)
    """Largest drop of a usefulness suite's score, in points; 0 asks for a sure gain."""
    require_decontaminated: bool = False
    """A suite passes only if all text that was trained on was decontaminated against it."""
    confidence: float = limited(0.95, limits=CONFIDENCE)
    """Of the intervals; a wrong verdict has half the rest as its chance, 2.5 % for 0.95."""
    action: GateAction = GateAction.report
    """What it leads to if, during training, a retention suite surely drops by stop_drop_points or
    more, or forgetting reaches stop_forgetting_nats."""
    stop_drop_points: float = limited(5.0, limits=POSITIVE)
    """Drop of a retention suite, in points, at which action=stop ends the run."""
    stop_forgetting_nats: float | None = limited(None, limits=POSITIVE)
    """Loss on the general set, minus base, in nats a token, at which action=stop ends the run."""


class BenchmarkRole(Enum):
    """What a benchmark is for: ``retention``: what the base model can must stay; ``gain``: the
    domain must get better; ``none``: measured only."""

    retention = "retention"
    gain = "gain"
    none = "none"


@dataclass(kw_only=True, slots=True)
class BenchmarkConfig:
    task: str = ""
    """A task or group of lm-eval by its name, or a YAML file of one."""
    include_path: str | None = None
    """Folder of more tasks; Python functions that their YAML files name are run."""
    fewshot: int | None = limited(None, limits=NOT_NEGATIVE)
    """Solved examples before each item; not set: as the task has it. A task that says 0 keeps 0."""
    limit: int = limited(0, limits=NOT_NEGATIVE)
    """Items of each task, from its first on; 0: all."""
    seed: int = limited(1234, limits=NOT_NEGATIVE)
    """Draws the solved examples."""
    every_steps: int = limited(0, limits=NOT_NEGATIVE)
    """Steps between two measurements in training; 0: only base and end, by ``megacpt evaluate``."""
    base_repeats: int = limited(1, limits=COUNT)
    """Measurements of the base, each with other solved examples (seed, seed + 1, ...): what they
    differ by is noise."""
    metric: str | None = None
    """Which of the task's metrics counts; not set: the first whose direction it says."""
    chat: bool = False
    """Put each item into the tokenizer's chat template."""
    role: BenchmarkRole = BenchmarkRole.none

    @property
    def names_file(self) -> bool:
        """Whether ``task`` is a YAML file, not a name that lm-eval knows."""
        return self.task.endswith((".yaml", ".yml"))


@dataclass(kw_only=True, slots=True)
class ServerConfig:
    """A server with the OpenAI interface."""

    url: str
    """Up to /v1."""
    model: str
    """What the server calls the model."""
    key_variable: str | None = None
    """Environment variable that holds the key."""


@dataclass(kw_only=True, slots=True)
class JudgeConfig:
    url: str
    """Up to /v1, of a server with the OpenAI interface: it is sent questions and answers."""
    model: str
    """What the server calls the model; not one of the two that are compared."""
    key_variable: str | None = None
    """Environment variable that holds the key."""
    max_tokens: int = limited(512, limits=COUNT)
    """Of a verdict with its reason."""
    temperature: float = limited(0.0, limits=NOT_NEGATIVE)
    """0: the likeliest token each time."""
    concurrency: int = limited(4, limits=COUNT)
    """Requests at once."""
    timeout_s: float = limited(120.0, limits=POSITIVE)
    """Of one reply."""
    retries: int = limited(5, limits=NOT_NEGATIVE)
    """Of a request that fails for a reason that may pass, after longer and longer waits."""


@dataclass(kw_only=True, slots=True)
class FutureAgiConfig:
    metric: str
    """Name of a metric; without ``cloud`` one of those that need no network: ``equals``,
    ``starts_with``, ``ends_with``, ``levenshtein_similarity``, ``is_json``, ``contains_json``,
    ``one_line``."""
    cloud: bool = False
    """Send questions and answers to Future AGI, which charges for it; needs FI_API_KEY and
    FI_SECRET_KEY in the environment."""
    model: str = limited("turing_flash", limits=TURING)
    """What scores there."""
    timeout_s: float = limited(60.0, limits=POSITIVE)
    """Of one answer."""


@dataclass(kw_only=True, slots=True)
class UsefulnessConfig:
    questions: str
    """JSONL file, a question a line: ``prompt`` or ``messages``; optional ``id``, ``reference``,
    ``rubric``, ``context``, ``cluster``."""
    metric: UsefulnessMetric
    """How an answer is scored."""
    limit: int = limited(0, limits=NOT_NEGATIVE)
    """Only the first so many questions; 0: all."""
    chat: bool = False
    """Send a ``prompt`` as a message of a user, not as text to go on with."""
    max_tokens: int = limited(256, limits=COUNT)
    """Of an answer."""
    temperature: float = limited(0.0, limits=NOT_NEGATIVE)
    """0: the likeliest token each time."""
    stop: str | None = None
    """Text before which an answer ends, such as ``Question:``."""
    concurrency: int = limited(8, limits=COUNT)
    """Questions at once."""
    timeout_s: float = limited(120.0, limits=POSITIVE)
    """Of one answer."""
    retries: int = limited(5, limits=NOT_NEGATIVE)
    """Of a question to a server that fails for a reason that may pass."""
    limit_minutes: float = limited(240.0, limits=POSITIVE)
    """Of all answers and verdicts of the suite; the same command goes on where it ended."""
    failures_max: float = limited(0.1, limits=SHARE)
    """Share of answers, or of verdicts, that may fail; more, and there are no scores."""
    base: ServerConfig | None = None
    """What serves the base model; not set: megacpt does."""
    candidate: ServerConfig | None = None
    """What serves the trained model; not set: megacpt serves the run's export."""
    command: str | None = None
    """Pipeline that is tested: a program and its arguments, started without a shell for each
    question, which it reads from its input. ``{url}`` and ``{model}`` are the model to use."""
    endpoint: str | None = None
    """Pipeline that is tested: an address that is sent a question and returns its answer."""
    judge: JudgeConfig | None = None
    """The model that compares answers, with ``metric=judge``."""
    future_agi: FutureAgiConfig | None = None
    """The metric, with ``metric=future_agi``."""


@dataclass(kw_only=True, slots=True)
class EvaluateConfig:
    heldout: dict[str, HeldoutConfig] = field(default_factory=dict)
    """Name -> text the model never trains on."""
    general: str | None = None
    """Name of the held-out set of general text; forgetting = its loss minus the base model's."""
    domain: str | None = None
    """Name of the held-out set of the domain."""
    every_steps: int = limited(50, limits=COUNT)
    """Steps between two measurements of the held-out losses; also before step 1 and at the end."""
    prompts: str | None = None
    """Text file, one prompt a line, continued before and during training."""
    generate_every_steps: int = limited(0, limits=NOT_NEGATIVE)
    """Steps between two continuations of the prompts; 0: only before step 1 and at the end."""
    max_new_tokens: int = limited(32, limits=COUNT)
    """Tokens generated for each prompt."""
    repetition_penalty: float = limited(1.0, limits=PENALTY)
    """Each next token is the likeliest once those that are there are made less likely: their logits
    divided by this, or times this below 0; 1: never. 1.2 keeps small models out of loops."""
    benchmarks: dict[str, BenchmarkConfig] = field(default_factory=dict)
    """Name -> items that the model answers, base beside newest checkpoint."""
    execute_code: bool = False
    """Allow tasks that run the code which the model writes, in a process without network."""
    gate: GateConfig = field(default_factory=GateConfig)
    usefulness: dict[str, UsefulnessConfig] = field(default_factory=dict)
    """Name -> questions that both models answer."""


@dataclass(kw_only=True, slots=True)
class SlurmConfig:
    """Options of sbatch by their own names; ``null`` leaves one to the cluster's default."""

    partition: str | None = None
    """Partition, or several separated by commas."""
    account: str | None = None
    """Account the hours are charged to."""
    qos: str | None = None
    """Quality of service."""
    reservation: str | None = None
    """Reservation to run in."""
    constraint: str | None = None
    """Features the nodes must have, such as ``h100&ib``."""
    time: str = "24:00:00"
    """Limit of one job: minutes, H:M:S or D-H:M:S. The run goes on in the next one."""
    cpus_per_task: int = limited(8, limits=COUNT)
    """Cores of each rank."""
    mem: str = "0"
    """Memory of each node, such as ``400G``; 0: all of it."""
    exclusive: bool = True
    """Share no node with other jobs."""
    dependency: str | None = None
    """Jobs to wait for, such as ``afterok:1234``."""
    array: str | None = None
    """Job array such as ``1-5%1``: five jobs of this run, one after the other."""
    chain: bool = False
    """Each job, once it runs, queues the next one, until the run is finished."""
    requeue: bool = True
    """Put the job back into the queue after a saved stop, a hang or a lost node."""
    signal_seconds: int = limited(300, limits=NOT_NEGATIVE)
    """Seconds before the time limit at which Slurm signals the job; longer than one step plus one
    save."""
    max_restarts_without_progress: int = limited(3, limits=NOT_NEGATIVE)
    """Restarts in a row that are allowed without a newer checkpoint."""
    spare_nodes: int = limited(0, limits=NOT_NEGATIVE)
    """Nodes beyond ``cluster.nodes`` that can replace bad ones."""
    container_runtime: ContainerRuntime = ContainerRuntime.pyxis
    container_image: str | None = None
    """Image the ranks run in: a file, or what the runtime can pull."""
    container_mounts: str | None = None
    """HOST:CONTAINER, separated by commas; the run folder, model and shards must be among them."""
    modules: str | None = None
    """Names for ``module load``, separated by spaces."""
    setup: str | None = None
    """Shell lines of your own, run on the first node before the ranks start."""
    extra: str | None = None
    """More options of sbatch, such as ``--mail-type=END --switches=1``."""
    python: str | None = None
    """Python of the ranks; not set: that of ``megacpt launch``, or python3 in a container."""


@dataclass(kw_only=True, slots=True)
class PreflightConfig:
    when: PreflightWhen = PreflightWhen.nodes
    on_bad: BadNodePolicy = BadNodePolicy.stop
    appear_s: float = limited(300.0, limits=POSITIVE)
    """Seconds until all ranks must have appeared; Python loads slowly from a cold file system."""
    limit_s: float = limited(60.0, limits=POSITIVE)
    """Seconds for each of the two checks after that: of the nodes and of their links."""
    disk_gib: float = limited(1.0, limits=NOT_NEGATIVE)
    """Free GiB in the run folder below which a node is bad."""
    disk_mib_s: float = limited(0.0, limits=NOT_NEGATIVE)
    """MiB/s of durable writes to the run folder below which a node is bad; 0: only warn."""
    shm_mib: float | None = limited(None, limits=NOT_NEGATIVE)
    """Free MiB in /dev/shm below which a node is bad; not set: 32 a rank on GPUs, none on CPUs."""
    clock_s: float = limited(10.0, limits=POSITIVE)
    """Seconds a node's clock may differ from the others'."""
    link_fraction: float = limited(0.5, limits=Limits(at_least=0, at_most=1, remedy="0.5 is usual"))
    """Fraction of the usual pair's speed below which a pair of nodes is slow; 0: compare none."""
    link_mib_s: float = limited(0.0, limits=NOT_NEGATIVE)
    """MiB/s below which a pair of nodes is slow, whatever the other pairs reach."""


@dataclass(kw_only=True, slots=True)
class ClusterConfig:
    device: DeviceKind = DeviceKind.auto
    nodes: int = limited(1, limits=COUNT)
    """Machines that ``megacpt launch`` asks Slurm for."""
    gpus_per_node: int | None = limited(None, limits=COUNT)
    """GPUs (and ranks) of each node; not set: the run's ranks divided by ``nodes``."""
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    threads_per_rank: int = limited(0, limits=NOT_NEGATIVE)
    """CPU threads of a rank; 0: an equal share of the machine's cores."""
    timeout_minutes: float = limited(10.0, limits=POSITIVE)
    """Minutes a collective may wait before the run ends."""
    time_limit_minutes: float = 0.0
    """Minutes the run may take: it saves and ends before; 0: the time of its Slurm job."""
    retries: int = limited(0, limits=NOT_NEGATIVE)
    """Restarts after a hang or a killed rank, each only if a checkpoint was written since the last
    start; for ranks started by ``megacpt train`` itself."""
    preflight: PreflightConfig = field(default_factory=PreflightConfig)


@dataclass(kw_only=True, slots=True)
class VariableConfig:
    value: str
    """Value of the variable."""


@dataclass(kw_only=True, slots=True)
class KernelsConfig:
    grad_accum_fusion: bool = True
    """GPU: the matrix product itself adds weight gradients to the fp32 buffer."""
    rope_fusion: bool = True
    """GPU: apply rotary positions in one kernel."""
    cross_entropy_fusion: bool = True
    """Compute loss and gradient from the logits in few passes: fused on GPUs, in chunks on CPUs."""
    tp_comm_overlap: bool = False
    """GPU: overlap tensor-parallel communication with the matrix products (needs sequence_parallel,
    and NVLink between the ranks)."""
    deterministic: bool = False
    """Make a repeated run give the same bits; slower, and refused with tp_comm_overlap."""
    manual_gc_steps: int = limited(100, limits=NOT_NEGATIVE)
    """Steps between two garbage collections, on all ranks at once; 0: leave it to Python."""
    environment: dict[str, VariableConfig] = field(default_factory=dict)
    """Environment variables every rank gets, unless its environment already has them."""


@dataclass(kw_only=True, slots=True)
class RunConfig:
    run_dir: str = "runs/default"
    """Everything a run writes goes here; the same folder resumes the run."""
    seed: int = limited(1234, limits=NOT_NEGATIVE)
    """Seed of weights (random init), data order and generation."""
    objective: Objective = Objective.pretraining
    """What is learned of the sources."""
    model: ModelConfig = field(default_factory=ModelConfig)
    adapter: AdapterConfig | None = None
    """Train this instead of the model's weights, which stay as they are."""
    data: DataConfig = field(default_factory=DataConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    faults: FaultsConfig = field(default_factory=FaultsConfig)
    kernels: KernelsConfig = field(default_factory=KernelsConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
