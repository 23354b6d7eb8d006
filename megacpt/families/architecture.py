# SPDX-License-Identifier: Apache-2.0
"""The shape of a decoder-only transformer, as its Hugging Face config.json states it.

Families (``megacpt.families``) fill this from their own config.json; planning, model
construction and conversion read nothing else about the model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from megacpt.families.rope import Rope, RopeScaling


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """How a router chooses the experts of a token."""

    sigmoid: bool = False
    """An expert's score is the sigmoid of its logit; else its share of the softmax."""
    correction_bias: bool = False
    """A number for each expert is added to its score, for the choice alone."""
    groups: int = 1
    """Equally large ones that the experts are in, one after another."""
    groups_per_token: int = 1
    """Of so many groups, the best, are the token's experts."""
    group_scored_by: int = 1
    """A group's score is the sum of so many of its experts', the best."""
    scale: float = 1.0
    """Of the weights of a token's experts, after all else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """The MLP of a layer is a mixture: a router sends each token to some of several."""

    num: int
    per_token: int
    """Each token's experts."""
    balance_coefficient: float
    """Weight of the load-balancing loss of a layer, where the run sets none."""
    renormalised: bool = True
    """A token's weights of its experts sum to one; else they are the scores of all experts."""
    routing: Routing = Routing()
    dense_layers: tuple[int, ...] = ()
    """Layers, from 0, with one MLP that all tokens pass in place of experts."""
    dense_ffn_hidden_size: int | None = None
    """Of the MLP of ``dense_layers``."""
    shared_ffn_hidden_size: int | None = None
    """Of an MLP that all tokens pass beside their experts; ``None``: there is none."""
    shared_gate: bool = False
    """Its result is multiplied by the sigmoid of a number for each token."""
    on_input: bool = False
    """A token's weight of an expert multiplies what the expert takes; else what it gives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent:
    """Attention whose keys and values are made from a few numbers a token (DeepSeek-V2,
    https://arxiv.org/abs/2405.04434). A head's query and key are a part that is not rotated and one
    of ``head_dim`` that is, which all heads' keys share."""

    query_rank: int | None
    """Numbers that queries are made from; ``None``: from the hidden state itself."""
    kv_rank: int
    plain_dim: int
    """Of the part that is not rotated."""
    value_dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaNet:
    """Layers with a gated delta net in place of attention."""

    layers: tuple[int, ...]
    """From 0."""
    key_heads: int
    value_heads: int
    """A multiple of ``key_heads``."""
    key_dim: int
    """Of a head, queries and keys."""
    value_dim: int
    kernel: int
    """Tokens that the convolution before it mixes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scales:
    """Multipliers and bounds that the weights do not hold."""

    embedding: float = 1.0
    embedding_rounded: bool = False
    """That multiplier is rounded to the type of the weights."""
    attention: float | None = None
    """Of queries times keys; ``None``: one over the root of the head's size."""
    attention_cap: float | None = None
    """c, where scores x are bounded to c * tanh(x / c)."""
    residual: float = 1.0
    """Of what attention and MLP add to their input."""
    logits: float = 1.0
    logits_cap: float | None = None
    """As that of attention."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Norms:
    """What a norm computes, and where a layer has one."""

    centred: bool = False
    """LayerNorm, which takes the mean away; else RMSNorm."""
    bias: bool = False
    plus_one: bool = False
    """Weights are stored less one."""
    scaled_wide: bool = False
    """Scaled in float32, then rounded; else the other way round."""
    before: bool = True
    """Attention and MLP take normed input."""
    after: bool = False
    """What they give is normed before it is added."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryGrowth:
    """Queries are the larger the later they stand in their document: times
    1 + ``rate`` * ln(1 + floor(position / ``original_max_positions``))."""

    rate: float
    original_max_positions: int
    first: int = 0
    """Position of a document's first token."""
    unrotated: bool = False
    """Only in layers that do not rotate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundedGlu:
    """An MLP of gate g and up u gives (u + 1) * g * sigmoid(``slope`` * g), where g is at most
    ``limit`` and u from -``limit`` to ``limit`` (gpt-oss)."""

    slope: float
    limit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """What is trained beside frozen weights: an update of low rank for each of some modules."""

    method: str
    """As the configuration calls it (``megacpt.config.sections.AdapterMethod``)."""
    rank: int
    alpha: float
    rank_stabilised: bool
    dropout: float
    modules: tuple[str, ...]
    """Hugging Face's names of the linear layers that have one, ``{layer}`` and ``{expert}``
    open."""
    layers: tuple[int, ...]
    """From 0."""
    embedding: bool
    """The input embedding is trained as well."""
    head: bool
    """The untied head is."""
    new_tokens_from: int | None = None
    """Of both only rows of this token id and above are."""

    @property
    def scale(self) -> float:
        """Of the product of both factors."""
        return self.alpha / (self.rank**0.5 if self.rank_stabilised else self.rank)

    @property
    def has_magnitudes(self) -> bool:
        """The size of each row of the sum of weight and update is trained apart (DoRA)."""
        return self.method == "dora"

    @property
    def has_core(self) -> bool:
        """Both factors are frozen, and a square matrix between them is trained (LoRA-XS)."""
        return self.method == "lora_xs"

    @property
    def has_start(self) -> bool:
        """Factors begin with what the weight is made of, which is subtracted (PiSSA)."""
        return self.method == "pissa"


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Sizes in elements; ids are ``None`` where the config states none."""

    family: str
    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    """Of the MLP; where there are experts, of one of them."""
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int
    norm_eps: float
    tied_embeddings: bool
    attention_bias: bool
    """Of query, key, value and output."""
    mlp_bias: bool
    rope_theta: float
    rope_scaling: RopeScaling | None
    initializer_range: float
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    experts: Experts | None = None
    """``None``: every layer has one MLP, which all tokens pass."""
    sliding_window: int | None = None
    """Last tokens that a token sees, itself among them; ``None``: all before it."""
    full_attention_layers: tuple[int, ...] = ()
    """Layers, from 0, whose tokens see all before them in spite of ``sliding_window`` or
    ``attention_chunk``."""
    qkv_bias: bool = False
    """Of query, key and value, whatever the output has."""
    qk_norm: bool = False
    """Each head's query and key pass an RMSNorm before they are rotated."""
    qk_norm_over_heads: bool = False
    """The queries of all heads together pass one, and the keys another."""
    no_rope_layers: tuple[int, ...] = ()
    """Layers, from 0, whose queries and keys are not rotated."""
    scales: Scales = Scales()
    delta_net: DeltaNet | None = None
    attention_gate: bool = False
    """What attention gives is multiplied by the sigmoid of a further product of its input."""
    norms: Norms = Norms()
    parallel_mlp: bool = False
    """The MLP takes what attention takes, by one norm, and both are added at once."""
    activation: str = "silu"
    """Of the MLP, as Hugging Face calls it."""
    gated: bool = True
    """The activation multiplies a second product of the input."""
    latent: Latent | None = None
    """``None``: queries, keys and values are projections of the hidden state, all of
    ``head_dim``."""
    rotary_share: float = 1.0
    """Of a head's channels, from the first, that are rotated."""
    rotary_pairs: bool = False
    """Neighbouring channels turn together; else the first half's with the second's."""
    local_rope: Rope | None = None
    """Of the layers that have a window, where they rotate in another way."""
    query_growth: QueryGrowth | None = None
    sinks: bool = False
    """Each head's softmax has one term more, of a learned score, whose value is nothing."""
    bounded_glu: BoundedGlu | None = None
    """In place of ``activation``."""
    attention_chunk: int | None = None
    """Tokens of a chunk, from a document's first on, which see no other; ``None``: no chunks."""
    rotated_qk_norm: bool = False
    """Each head's query and key, rotated, pass an RMSNorm without weights."""
    adapter: Adapter | None = None
    """``None``: all weights are trained."""

    @property
    def attention_size(self) -> float:
        """Mean of what all heads compare for a token and of what they sum."""
        if self.latent is None:
            return self.num_heads * self.head_dim
        compared = self.latent.plain_dim + self.head_dim
        return self.num_heads * (compared + self.latent.value_dim) / 2

    @property
    def dense_ffn_hidden_size(self) -> int:
        """Of an MLP that all tokens pass."""
        stated = self.experts.dense_ffn_hidden_size if self.experts else None
        return self.ffn_hidden_size if stated is None else stated

    def has_experts(self, layer: int) -> bool:
        """``layer``: counted from 0."""
        return self.experts is not None and layer not in self.experts.dense_layers

    @property
    def rope(self) -> Rope:
        """Of all layers but those of ``local_rope`` and ``no_rope_layers``."""
        return Rope(theta=self.rope_theta, scaling=self.rope_scaling, share=self.rotary_share)

    def rope_of(self, layer: int) -> Rope | None:
        """``None`` where the layer, counted from 0, does not rotate."""
        if layer in self.no_rope_layers:
            return None
        local = self.local_rope if self.window(layer) is not None else None
        return local or self.rope

    def window(self, layer: int) -> int | None:
        """Of the layer, counted from 0."""
        return None if layer in self.full_attention_layers else self.sliding_window

    def chunk(self, layer: int) -> int | None:
        """Of the layer, counted from 0."""
        return None if layer in self.full_attention_layers else self.attention_chunk

    def growth_of(self, layer: int) -> QueryGrowth | None:
        """``layer``: counted from 0."""
        growth, rotates = self.query_growth, self.rope_of(layer) is not None
        return None if growth is not None and growth.unrotated and rotates else growth

    def balanced_by(self, coefficient: float | None) -> Architecture:
        """The same with another weight of the load-balancing loss, where one is given."""
        if self.experts is None or coefficient is None:
            return self
        return replace(self, experts=replace(self.experts, balance_coefficient=coefficient))
