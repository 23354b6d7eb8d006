# SPDX-License-Identifier: Apache-2.0
"""Any changed, cut or missing byte of a checkpoint is found, the manifest's own too."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megacpt.checkpoint import verify
from megacpt.checkpoint.manifest import (
    CheckpointManifest,
    FileSum,
    require_architecture,
    require_base,
)
from megacpt.errors import CheckpointError
from tests.checkpoint.small import FILES, claim, write

NAMES = [*FILES, "manifest.json"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "run" / "checkpoints"
    return write(root, step=3, start=claim(root, from_step=0), heldout={"law": 1.5})


def test_sound_checkpoint_has_no_problem(folder: Path) -> None:
    assert verify.quick(folder) == []
    assert verify.full(folder) == []
    assert verify.sums_of(folder) == CheckpointManifest.read(folder).files


def test_each_kind_of_damage_is_named_with_its_file(folder: Path) -> None:
    (folder / "__0_0.distcp").write_bytes(bytes(60))
    (folder / "__1_0.distcp").write_bytes(bytes(100))
    (folder / "common.pt").unlink()
    by_size = ["__0_0.distcp has 60 bytes but was written with 300", "common.pt is missing"]
    by_content = "__1_0.distcp has other contents than were written (its checksum differs)"
    assert verify.quick(folder) == by_size
    assert verify.full(folder) == [by_size[0], by_content, by_size[1]]
    assert verify.full(folder, names=["__1_0.distcp"]) == [by_content]


def test_file_that_cannot_be_read_is_a_problem(folder: Path) -> None:
    (folder / "common.pt").unlink()
    (folder / "common.pt").symlink_to("common.pt")
    assert verify.quick(folder) == ["common.pt cannot be read: Too many levels of symbolic links"]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=st.sampled_from(NAMES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(folder: Path, name: str, place: float, bit: int) -> None:
    path = folder / name
    whole = path.read_bytes()
    content = bytearray(whole)
    content[int(place * len(whole))] ^= 1 << bit
    path.write_bytes(content)
    try:
        # Blanks between the words of the manifest carry nothing.
        assert verify.full(folder) or CheckpointManifest.read(folder).step == 3
        assert verify.full(folder) or name == "manifest.json"
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is not that of a checkpoint: Expecting property name"),
        ("[]", "is not that of a checkpoint: "),
        ("{}", "is not that of a checkpoint: it has no 'manifest_xxh128'"),
    ],
)
def test_what_is_no_manifest_is_refused(folder: Path, text: str, reason: str) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError) as raised:
        CheckpointManifest.read(folder)
    assert str(raised.value).startswith(f"{folder}: manifest.json {reason}")
    assert verify.quick(folder)[0].startswith(f"manifest.json {reason}")


def test_changed_number_in_the_manifest_is_found(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"step": 3', '"step": 8', 1))
    assert verify.quick(folder) == [
        "manifest.json is not that of a checkpoint: its checksum is wrong"
    ]


def test_manifest_comes_back_as_it_was_written(folder: Path) -> None:
    manifest = replace(
        CheckpointManifest.read(folder), faults={"losses": [0.1, 1e-30, float("inf")]}
    )
    manifest.write(folder)
    assert asdict(CheckpointManifest.read(folder)) == asdict(manifest)


def test_readers_share_the_files_without_rest(folder: Path) -> None:
    manifest = CheckpointManifest.read(folder)
    for parts in (1, 2, 5):
        shares = [verify.files_to_read(manifest, rank=n, ranks=parts) for n in range(parts)]
        assert sorted(name for share in shares for name in share) == sorted(FILES)


def test_other_model_is_refused(folder: Path) -> None:
    manifest = CheckpointManifest.read(folder)
    require_architecture(manifest, architecture={"hidden_size": 64}, folder=folder)
    with pytest.raises(CheckpointError, match="its hidden_size is 64, the base model's is 32"):
        require_architecture(manifest, architecture={"hidden_size": 32}, folder=folder)


def test_what_an_older_checkpoint_does_not_state_is_no_other_model(folder: Path) -> None:
    """Of a group of values, too; one it states counts, tuples being JSON's lists."""
    stated = {"experts": {"num": 4}, "layers": [1, 2]}
    manifest = replace(CheckpointManifest.read(folder), architecture=stated)
    base = {"layers": (1, 2), "experts": {"num": 4, "renormalised": True}, "qk_norm": False}
    require_architecture(manifest, architecture=base, folder=folder)
    for other in ({"layers": (1, 3)}, {"experts": {"num": 6}}, {"experts": None}):
        with pytest.raises(CheckpointError, match=f"its {next(iter(other))} is"):
            require_architecture(manifest, architecture=base | other, folder=folder)


ADAPTER = {"method": "lora", "rank": 4, "dropout": 0.0, "head": False}
ADAPTER |= {"modules": ["h.{layer}.attn.q_proj", "h.{layer}.attn.v_proj"], "layers": [0, 1]}


@pytest.mark.parametrize(
    ("stated", "own", "words"),
    [
        ({}, ADAPTER, "holds all weights of a model.* megacpt export.* model.path=FOLDER"),
        ({"adapter": None}, ADAPTER, "holds all weights of a model"),
        ({"adapter": ADAPTER}, None, "holds an adapter, .*adapter=none.* megacpt merge --adapter"),
        (
            {"adapter": ADAPTER},
            ADAPTER | {"rank": 8, "method": "dora"},
            "another adapter than this run's: adapter.method was lora and is dora, "
            "adapter.rank was 4 and is 8; use the settings",
        ),
        (
            {"adapter": ADAPTER},
            ADAPTER | {"modules": ("h.{layer}.attn.q_proj",), "layers": (1,), "head": True},
            "adapter.train_head was false and is true, adapter.targets was q_proj,v_proj and is "
            "q_proj, adapter.layers was 0,1 and is 1; use",
        ),
    ],
)
def test_another_adapter_is_named_by_what_differs(
    folder: Path, stated: dict[str, object], own: object, words: str
) -> None:
    manifest = replace(CheckpointManifest.read(folder), architecture=stated)
    with pytest.raises(CheckpointError, match=words):
        require_architecture(manifest, architecture={"adapter": own}, folder=folder)


def test_the_same_adapter_goes_on_with_another_dropout(folder: Path) -> None:
    manifest = replace(CheckpointManifest.read(folder), architecture={"adapter": ADAPTER})
    own = ADAPTER | {"dropout": 0.1}
    require_architecture(manifest, architecture={"adapter": own}, folder=folder)


def test_an_adapter_s_checkpoint_goes_with_its_own_base(folder: Path) -> None:
    tree = json.loads((folder / "manifest.json").read_text())
    del tree["base"], tree["manifest_xxh128"]
    tree["files"] = {name: FileSum(**found) for name, found in tree["files"].items()}
    CheckpointManifest(**tree).write(folder)
    older = CheckpointManifest.read(folder)
    assert older.base is None
    mine, other = "0123456789abcdef" * 2, "f" * 32
    require_base(older, base=other, model="models/x", folder=folder)
    manifest = replace(older, base=mine)
    manifest.write(folder)
    assert CheckpointManifest.read(folder).base == mine
    for same in (mine, None):
        require_base(manifest, base=same, model="models/x", folder=folder)
    with pytest.raises(CheckpointError) as caught:
        require_base(manifest, base=other, model="models/x", folder=folder)
    assert str(caught.value) == (
        f"{folder} is an adapter to other weights: it was trained with those of fingerprint "
        "0123456789ab, models/x has ffffffffffff; put the model there that the run began with."
    )
