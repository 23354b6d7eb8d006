# SPDX-License-Identifier: Apache-2.0
"""Every setting of a run: one dataclass a section, each field with its unit and one line of why.

The tree is the schema Hydra composes into and the form ``RUN_DIR/run.yaml`` is read back into.
``None`` means "not set". Sizes are in tokens, samples or steps as the name says.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Init(Enum):
    """Where the first weights come from; anything but ``pretrained`` must be asked for by name."""

    pretrained = "pretrained"
    random = "random"


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


class FaultPolicy(Enum):
    """What a step with a bad loss or gradient leads to."""

    ignore = "ignore"
    stop = "stop"
    skip = "skip"
    rollback = "rollback"


class PreflightWhen(Enum):
    """``nodes``: where a run has several; ``always``: on one, too."""

    never = "never"
    nodes = "nodes"
    always = "always"


class BadNodePolicy(Enum):
    """What a bad node leads to: the run ends and names it, or goes on with a warning."""

    stop = "stop"
    warn = "warn"


class SaveErrorPolicy(Enum):
    """What a checkpoint that cannot be written leads to."""

    go_on = "go_on"
    stop = "stop"


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


class WandbMode(Enum):
    """``auto``: online where WANDB_API_KEY is set, offline otherwise."""

    auto = "auto"
    online = "online"
    offline = "offline"
    disabled = "disabled"


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    path: str | None = None
    """Hugging Face folder: config.json, tokenizer.json, *.safetensors."""
    init: Init = Init.pretrained
    """``random`` reads config.json and the tokenizer of ``path`` but no weights."""
    allow_unhealthy: bool = False
    """Go on although the import health check found near-zero embedding rows or the like."""
    router_aux_loss_coef: float | None = None
    """Weight of each layer's load-balancing loss (experts); not set: the base model's own."""


@dataclass(kw_only=True, slots=True)
class SyntheticConfig:
    documents: int = 400
    """Number of generated documents."""
    seed: int = 1
    """Seed of the generator; two sources with different seeds share no document."""
    topic: str = "plant"
    """``plant`` or ``kitchen``: two small vocabularies, so that sources differ."""


@dataclass(kw_only=True, slots=True)
class SourceConfig:
    prefix: str | None = None
    """Token shard without its .bin/.idx ending, as written by ``megacpt tokenize``."""
    synthetic: SyntheticConfig | None = None
    """Generated text instead of a shard; written to RUN_DIR/data when the run starts."""
    weight: float = 1.0
    """Share among the sources that are not replay; weights need not sum to one. 0: takes part only
    in the stages that name it."""
    max_epochs: float | None = None
    """A run that would go through the source more often than this is refused; not set: no cap."""


@dataclass(kw_only=True, slots=True)
class ReplayConfig:
    source: str
    """Which of ``data.sources`` is replay: text like what the base model was trained on."""
    share: float
    """Fraction of the samples of every global batch, 0 < share < 1; 0.05 to 0.2 is usual."""


@dataclass(kw_only=True, slots=True)
class StageSourceConfig:
    weight: float = 1.0
    """Share among the stage's sources that are not replay."""


@dataclass(kw_only=True, slots=True)
class StageConfig:
    from_step: int | None = None
    """Optimizer steps done before the stage begins; set this or ``from_tokens``."""
    from_tokens: int | None = None
    """The stage begins with the first step after this many tokens of samples."""
    sources: dict[str, StageSourceConfig] = field(default_factory=dict)
    """The sources that take part and their weights; none named: as in the stage before."""
    replay_share: float | None = None
    """Replay's fraction of each global batch from here on; not set: as before."""
    sequence_length: int | None = None
    """Tokens a sample from here on; not set: as before."""
    global_batch_size: int | None = None
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
    """Attention stays within a document."""
    prefetch_steps: int = 2
    """Global batches read ahead in the background; 0 reads each when it is needed."""
    chunk_length: int | None = None
    """Tokens shuffled as one piece; not set: the longest sequence length of all stages."""
    sequence_length: int = 512
    """Tokens a sample."""
    global_batch_size: int = 8
    """Samples an optimizer step, over all ranks."""
    micro_batch_size: int = 1
    """Samples a forward pass on one rank."""


@dataclass(kw_only=True, slots=True)
class ParallelConfig:
    tp: int = 1
    """Tensor-parallel ranks: each layer is cut over this many."""
    pp: int = 1
    """Pipeline-parallel ranks: the layers are dealt to this many stages."""
    vpp: int = 1
    """Virtual stages a pipeline rank holds (interleaved schedule when above 1)."""
    dp: int = 1
    """Data-parallel replicas; the run has tp * cp * pp * dp ranks."""
    cp: int = 1
    """Context-parallel ranks: each sample is cut over this many."""
    ep: int = 1
    """Expert-parallel ranks among the tp * cp * dp of a stage; each holds that part of the
    experts."""
    etp: int | None = None
    """Tensor-parallel ranks an expert is cut over; not set: parallel.tp."""
    first_stage_layers: int | None = None
    """Layers on the first pipeline stage; not set: an even share."""
    last_stage_layers: int | None = None
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
    """``selective`` keeps all but what is cheap to compute again; ``full`` keeps layer inputs."""
    recompute_layers: int | None = None
    """Layers of a stage that ``full`` recomputes; not set: all."""

    @property
    def num_ranks(self) -> int:
        """Expert parallelism deals the same ranks once more and adds none."""
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
    amax_history_length: int = 1024
    """Forward passes (microbatches) whose largest absolute value sets the scale (``delayed``)."""
    bf16_first_layers: int = 0
    """Layers at the start of the model that stay in bf16 (not with ``delayed``)."""
    bf16_last_layers: int = 0
    """Layers at its end that stay in bf16 (not with ``delayed``)."""
    fp8_param_gather: bool = False
    """GPU: keep and gather the weights in fp8 (needs distributed_optimizer)."""


@dataclass(kw_only=True, slots=True)
class MuonConfig:
    momentum: float = 0.95
    """Decay of the running mean of the gradient."""
    nesterov: bool = True
    """Look one step ahead along the momentum."""
    newton_schulz_steps: int = 5
    """Iterations that make the update's singular values about one."""
    scale: str = "spectral"
    """How the update's size follows a matrix's shape: ``spectral`` or ``unit_rms_norm``."""
    lr_multiplier: float = 1.0
    """On the rate of the matrices Muon updates; all others are AdamW's."""


@dataclass(kw_only=True, slots=True)
class OptimConfig:
    optimizer: Optimizer = Optimizer.adamw
    """``muon`` updates the layers' matrices, AdamW all else."""
    muon: MuonConfig = field(default_factory=MuonConfig)
    lr_peak: float = 2e-5
    """Learning rate after warmup; continued pretraining wants 5e-6 to 5e-5."""
    beta1: float = 0.9
    """AdamW's decay of the gradient's running mean."""
    beta2: float = 0.95
    """AdamW's decay of the squared gradient's running mean."""
    eps: float = 1e-8
    """Added to the root of the squared mean."""
    weight_decay: float = 0.1
    """Decoupled; norms and biases are excluded."""
    clip_grad_norm: float = 1.0
    """Largest global L2 norm of the gradient; 0 turns clipping off."""
    embedding_lr_multiplier: float = 1.0
    """On the rate of the input embedding."""
    head_lr_multiplier: float = 1.0
    """On the rate of an output matrix of its own (an untied head)."""
    decay_embeddings: bool = True
    """Weight decay on the embedding and the head as well."""
    decay_norms: bool = False
    """Weight decay on norms and biases as well."""
    offload: bool = False
    """Keep the optimizer state in host memory and update there."""
    base_lr_peak: float | None = None
    """Peak rate of the base model's own pretraining, where known; the guard compares with it."""


@dataclass(kw_only=True, slots=True)
class ScheduleConfig:
    steps: int = 100
    """Optimizer steps of the whole run."""
    warmup_steps: int = 5
    """Steps of linear warmup to lr_peak."""
    shape: LrShape = LrShape.cosine
    """How the rate falls after warmup."""
    decay_steps: int = 0
    """Last steps, in which ``wsd`` falls as 1 - sqrt; before them it stays at lr_peak."""
    lr_start_fraction: float = 0.0
    """Warmup starts at this fraction of lr_peak: where the run before has ended."""
    lr_final_fraction: float | None = None
    """The last step of cosine, linear or wsd has this fraction of lr_peak; not set: 0.1."""


@dataclass(kw_only=True, slots=True)
class FaultsConfig:
    nonfinite: FaultPolicy = FaultPolicy.rollback
    """Where a loss or gradient norm is NaN or infinite; ``ignore`` is refused."""
    spike: FaultPolicy = FaultPolicy.skip
    """Where a loss or gradient norm is far above the last ones."""
    spike_z: float = 12.0
    """How far: robust standard deviations (1.4826 * MAD) above the line of the last steps."""
    spike_window_steps: int = 64
    """Good steps of the present stage that the line and its spread are taken over."""
    spike_min_steps: int = 16
    """No step is called a spike before this many are known."""
    rollback_skip_steps: int = 4
    """After a rollback so many steps are passed over, the last of them the one at fault."""
    rollback_lr_factor: float = 1.0
    """Each rollback multiplies the rate by this from its checkpoint on."""
    max_events: int = 5
    """Skips and rollbacks allowed within ``spike_window_steps`` steps; one more ends the run."""
    excerpt_tokens: int = 48
    """Decoded tokens of each offending sample in the record of the event."""
    straggler_factor: float = 1.5
    """Name the slowest rank where it takes this many times the median rank's time."""
    hang_minutes: float = 0.0
    """No sign of life for this long: stacks of all ranks, then exit code 75; 0: nine tenths of
    cluster.timeout_minutes."""


@dataclass(kw_only=True, slots=True)
class LoadConfig:
    weights: bool = True
    """The weights in place of the base model's."""
    optimizer: bool = False
    """Both moments, fp32 masters and the number of updates; needs the weights."""
    schedule: bool = False
    """Go on with the step after it, of this run's own schedule; false: begin with step 1."""
    data: bool = False
    """Draw the samples that come next; false: draw from the first one on."""


@dataclass(kw_only=True, slots=True)
class CheckpointConfig:
    every_steps: int = 50
    """Save each time this many steps are done, and at the end."""
    keep_last: int = 2
    """How many of the newest checkpoints stay on disk."""
    keep_every_steps: int = 0
    """Those of each step that this divides stay for ever; 0: none for this reason."""
    keep_best: bool = False
    """The one with the lowest loss on evaluate.domain (evaluate.general, where none is named)
    stays; of those saved at a step whose held-out losses were measured."""
    asynchronous: bool = True
    """Training goes on while a checkpoint is written; false: it waits, and needs no memory for
    what changes meanwhile."""
    on_error: SaveErrorPolicy = SaveErrorPolicy.go_on
    """``go_on`` warns and saves again when it is due; the third failure in a row, and one at the
    end, stop the run all the same."""
    save_before_end_s: float = 0.0
    """So long before the time limit the run saves and ends; 0: three times the longest of a step
    and the last save, and 30 s."""
    load_from: str | None = None
    """Warm start: another run's folder (its newest checkpoint) or one of its checkpoints; read
    once, when the run begins."""
    load: LoadConfig = field(default_factory=LoadConfig)
    """What is taken from it; all else is this run's own."""


@dataclass(kw_only=True, slots=True)
class MonitorConfig:
    log_every_steps: int = 1
    """One readable line each time this many steps are done."""
    wandb: WandbMode = WandbMode.auto
    """``auto``: online where WANDB_API_KEY is set, else offline below RUN_DIR/wandb."""
    wandb_project: str = "megacpt"
    """Project the run is shown in."""
    wandb_entity: str | None = None
    """Team or user; not set: the account's own default."""
    wandb_name: str | None = None
    """Defaults to the name of the run folder."""


@dataclass(kw_only=True, slots=True)
class HeldoutConfig:
    prefix: str | None = None
    """Token shard of documents that are in no training source."""
    synthetic: SyntheticConfig | None = None
    """Generated text instead of a shard."""
    max_tokens: int = 20_000
    """Measured from the start of the shard; 0 takes all."""


@dataclass(kw_only=True, slots=True)
class GateConfig:
    domain_perplexity_ratio_max: float | None = None
    """Final over base on the domain set; declared before training, checked by ``evaluate``."""
    general_perplexity_ratio_max: float | None = None
    """Final over base on the general set: what may be forgotten at most."""


@dataclass(kw_only=True, slots=True)
class EvaluateConfig:
    heldout: dict[str, HeldoutConfig] = field(default_factory=dict)
    """Name -> text the model never trains on."""
    general: str | None = None
    """Which held-out set is general text; forgetting = its loss minus the base model's."""
    domain: str | None = None
    """Which held-out set is the domain's."""
    every_steps: int = 50
    """Held-out losses each time this many steps are done, before step 1 and at the end."""
    prompts: str | None = None
    """Text file, one prompt a line, continued before and during training."""
    generate_every_steps: int = 0
    """Spot-check generations; 0: before step 1 and at the end only."""
    max_new_tokens: int = 32
    """Tokens a spot-check generation."""
    gate: GateConfig = field(default_factory=GateConfig)


@dataclass(kw_only=True, slots=True)
class SlurmConfig:
    """Options of sbatch by their own names; ``null`` leaves one to the cluster's default."""

    partition: str | None = None
    """Or several, separated by commas."""
    account: str | None = None
    """Whom the hours are charged to."""
    qos: str | None = None
    """Quality of service."""
    reservation: str | None = None
    """A reservation to run in."""
    constraint: str | None = None
    """Features of nodes, as ``h100&ib``."""
    time: str = "24:00:00"
    """Limit of one job: minutes, H:M:S or D-H:M:S. The run goes on in the next one."""
    cpus_per_task: int = 8
    """Cores of each rank."""
    mem: str = "0"
    """Memory of each node, as ``400G``; 0 is all of it."""
    exclusive: bool = True
    """Share no node with other jobs."""
    dependency: str | None = None
    """Start after other jobs, as ``afterok:1234``."""
    array: str | None = None
    """As ``1-5%1``: so many jobs of this run, one after the other."""
    chain: bool = False
    """Each job, once it runs, queues the next one, until the run is finished."""
    requeue: bool = True
    """Put the job back into the queue after a saved stop, a hang or a lost node."""
    signal_seconds: int = 300
    """So long before its limit the job is told to save and stop; more than a step and a save."""
    max_restarts_without_progress: int = 3
    """Restarts in a row without a newer checkpoint; the next one is refused."""
    spare_nodes: int = 0
    """Nodes beyond ``cluster.nodes`` that may take the place of bad ones."""
    container_runtime: ContainerRuntime = ContainerRuntime.pyxis
    container_image: str | None = None
    """Image the ranks run in: a file, or what the runtime can pull."""
    container_mounts: str | None = None
    """HOST:CONTAINER, separated by commas; the run folder, model and shards must be among them."""
    modules: str | None = None
    """What ``module load`` gets, separated by spaces."""
    setup: str | None = None
    """Shell lines of your own on the first node before the ranks start."""
    extra: str | None = None
    """More options of sbatch, as ``--mail-type=END --switches=1``."""
    python: str | None = None
    """Interpreter of the ranks; not set: that of ``megacpt launch``, or python3 in a container."""


@dataclass(kw_only=True, slots=True)
class PreflightConfig:
    when: PreflightWhen = PreflightWhen.nodes
    on_bad: BadNodePolicy = BadNodePolicy.stop
    appear_s: float = 300.0
    """Seconds that all ranks may take to appear: Python loads slowly from a cold file system."""
    limit_s: float = 60.0
    """Seconds for each of the two parts after that: looking at the nodes, and at their links."""
    disk_gib: float = 1.0
    """Free space of the run folder below which a node is bad."""
    disk_mib_s: float = 0.0
    """Speed of lasting writes to the run folder below which a node is bad; 0 only warns."""
    shm_mib: float | None = None
    """Free /dev/shm below which a node is bad; not set: 32 MiB a rank on GPUs, none on CPUs."""
    clock_s: float = 10.0
    """Seconds a node's clock may be away from the others'."""
    link_fraction: float = 0.5
    """A pair of nodes slower than this part of the usual pair is slow; 0 compares none."""
    link_mib_s: float = 0.0
    """A pair of nodes slower than this is slow, whatever the others are."""


@dataclass(kw_only=True, slots=True)
class ClusterConfig:
    device: DeviceKind = DeviceKind.auto
    nodes: int = 1
    """Machines that ``megacpt launch`` asks Slurm for."""
    gpus_per_node: int | None = None
    """GPUs, and so ranks, of each; not set: the run's ranks over ``nodes``."""
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    threads_per_rank: int = 0
    """CPU threads of a rank; 0 shares the machine's cores among its ranks."""
    timeout_minutes: float = 10.0
    """A collective that waits longer than this ends the run."""
    time_limit_minutes: float = 0.0
    """The run saves and ends before it has run for so long; 0: before the end of its Slurm job."""
    retries: int = 0
    """Starts after a hang or a killed rank, each only if a checkpoint was written since the last;
    for ranks that ``megacpt train`` itself has started."""
    preflight: PreflightConfig = field(default_factory=PreflightConfig)


@dataclass(kw_only=True, slots=True)
class VariableConfig:
    value: str
    """What the variable is set to."""


@dataclass(kw_only=True, slots=True)
class KernelsConfig:
    grad_accum_fusion: bool = True
    """GPU: weight gradients are added to the fp32 buffer by the matrix product itself."""
    rope_fusion: bool = True
    """GPU: rotary positions in one kernel."""
    cross_entropy_fusion: bool = True
    """From logits to loss and gradient in few passes: fused kernels on GPUs, chunks on CPUs."""
    tp_comm_overlap: bool = False
    """GPU: tensor-parallel communication in pieces beside the products (needs
    sequence_parallel, and NVLink between the ranks)."""
    deterministic: bool = False
    """The same bits from the same run again; slower, and refused with tp_comm_overlap."""
    manual_gc_steps: int = 100
    """Collect Python's garbage every so many steps, on all ranks at once; 0 leaves it to Python."""
    environment: dict[str, VariableConfig] = field(default_factory=dict)
    """Environment variables every rank gets, unless its environment already has them."""


@dataclass(kw_only=True, slots=True)
class RunConfig:
    run_dir: str = "runs/default"
    """Everything a run writes goes here; the same folder resumes the run."""
    seed: int = 1234
    """Seed of weights (random init), data order and generation."""
    model: ModelConfig = field(default_factory=ModelConfig)
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
