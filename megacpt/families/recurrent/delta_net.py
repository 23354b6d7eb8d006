# SPDX-License-Identifier: Apache-2.0
"""The rows of a gated delta net, which some layers have in place of attention, and of attention
whose result passes a gate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from megacpt.families.architecture import Architecture, DeltaNet
from megacpt.families.hf_config import HfConfig
from megacpt.families.weights import Grouping, HfTensor, Param, Part, Role

_NATIVE = "decoder.layers.{layer}.self_attention"
_NET = "model.layers.{layer}.linear_attn"
_QUERY = "model.layers.{layer}.self_attn.q_proj"
_MIXED = (("q", "delta_k"), ("k", "delta_k"), ("v", "delta_v"))


def read(config: HfConfig, *, num_layers: int) -> DeltaNet:
    """Defaults are those that Qwen3-Next and Qwen3.5 have in common in transformers."""
    interval = config.integer("full_attention_interval", default=4)
    every = [
        "full_attention" if (layer + 1) % interval == 0 else "linear_attention"
        for layer in range(num_layers)
    ]
    known = ("full_attention", "linear_attention")
    kinds = config.names("layer_types", num=num_layers, known=known, default=every)
    net = DeltaNet(
        layers=tuple(n for n, kind in enumerate(kinds) if kind == "linear_attention"),
        key_heads=config.integer("linear_num_key_heads", default=16),
        value_heads=config.integer("linear_num_value_heads", default=32),
        key_dim=config.integer("linear_key_head_dim", default=128),
        value_dim=config.integer("linear_value_head_dim", default=128),
        kernel=config.integer("linear_conv_kernel_dim", default=4),
    )
    config.require_divisor("linear_num_key_heads", value=net.key_heads, of=net.value_heads)
    return net


def rows(of_attention: tuple[Param, ...], *, projections: tuple[HfTensor, ...]) -> Iterator[Param]:
    """A layer's rows before the MLP: attention's, with a gate, and in other layers the net's.

    ``projections``: what fills the net's first matrix, in the order of a key head's rows: query,
    key, values, gates, betas, decays.
    """
    for row in of_attention:
        if not row.native.startswith(_NATIVE):
            yield row
            continue
        elsewhere = replace(row, in_layer=lambda a, layer: layer not in _layers(a))
        if "linear_qkv.weight" in row.native:
            _, *others = row.sources
            gated = tuple(HfTensor(name=f"{_QUERY}.{n}", dims=("q", "hidden")) for n in _GATED)
            elsewhere = replace(elsewhere, sources=(*gated, *others))
        yield elsewhere
    yield from _net_rows(projections)


_GATED = ("query", "gate")


def _layers(architecture: Architecture) -> tuple[int, ...]:
    return architecture.delta_net.layers if architecture.delta_net else ()


def _net_rows(projections: tuple[HfTensor, ...]) -> Iterator[Param]:
    def row(native: str, *sources: HfTensor, role: Role, grouped: bool = True) -> Param:
        return Param(
            native=f"{_NATIVE}.{native}",
            sources=sources,
            role=role,
            tp_dim=0 if grouped else None,
            grouping=Grouping.by_delta_head if grouped else Grouping.once,
            in_layer=lambda a, layer: layer in _layers(a),
        )

    def of(name: str, *dims: str) -> HfTensor:
        return HfTensor(name=f"{_NET}.{name}", dims=dims)

    conv = (of(f"conv1d.{name}", size, "one", "delta_kernel") for name, size in _MIXED)
    yield row("in_proj.weight", *projections, role=Role.linear)
    yield row("conv", *conv, role=Role.convolution)
    yield row("A_log", of("A_log", "delta_heads"), role=Role.bias)
    yield row("dt_bias", of("dt_bias", "delta_heads"), role=Role.bias)
    yield row("norm", of("norm.weight", "delta_value"), role=Role.scale, grouped=False)
    out = of("out_proj.weight", "hidden", "delta_v")
    yield replace(row("out_proj.weight", out, role=Role.linear, grouped=False), tp_dim=1)


def projection(name: str, *, size: str) -> HfTensor:
    """Of a net's input, which a folder holds alone."""
    return HfTensor(name=f"{_NET}.{name}.weight", dims=(size, "hidden"))


def mixed(name: str, *dims: str) -> tuple[HfTensor, ...]:
    """Query, key and value, which a folder holds as one tensor ``name``, above each other."""
    return tuple(HfTensor(name=f"{_NET}.{name}.{n}", dims=(size, *dims)) for n, size in _MIXED)


def parts(architecture: Architecture) -> dict[str, Part]:
    """Where a folder holds query and gate, and what the convolution mixes."""
    found: dict[str, Part] = {}
    for layer in range(architecture.num_layers):
        if layer in _layers(architecture):
            found |= _above_each_other(architecture, name="conv1d", layer=layer)
        else:
            found |= _query_and_gate(architecture, layer=layer)
    return found


def mixed_parts(architecture: Architecture, *, name: str) -> dict[str, Part]:
    """The same of a tensor that ``mixed`` has named."""
    found: dict[str, Part] = {}
    for layer in _layers(architecture):
        found |= _above_each_other(architecture, name=name, layer=layer)
    return found


def _query_and_gate(architecture: Architecture, *, layer: int) -> dict[str, Part]:
    """For each head its query's rows, then its gate's."""
    head, hidden = architecture.head_dim, architecture.hidden_size
    whole, stem = (2 * architecture.num_heads * head, hidden), _QUERY.format(layer=layer)
    return {
        f"{stem}.{name}": Part(
            name=f"{stem}.weight", shape=whole, start=start, rows=head, group=2 * head
        )
        for name, start in zip(_GATED, (0, head), strict=True)
    }


def _above_each_other(architecture: Architecture, *, name: str, layer: int) -> dict[str, Part]:
    net = architecture.delta_net
    assert net is not None
    keys, values = net.key_heads * net.key_dim, net.value_heads * net.value_dim
    inner = (1, net.kernel) if name == "conv1d" else (architecture.hidden_size,)
    stem, whole = f"{_NET.format(layer=layer)}.{name}", (2 * keys + values, *inner)
    return {
        f"{stem}.{part}": Part(name=f"{stem}.weight", shape=whole, start=start)
        for (part, _), start in zip(_MIXED, (0, keys, 2 * keys), strict=True)
    }
