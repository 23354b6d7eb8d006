# SPDX-License-Identifier: Apache-2.0
"""A column is read if its values are text, of any Arrow type; pyarrow's cast is the oracle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from megacpt.corpus import parquet
from megacpt.corpus.parquet import BATCH_BYTES, read_values
from megacpt.errors import DataError

TEXTS = ["A river.", None, "", "naïve 日本", "A hill.", "A river."]


def write(path: Path, **columns: Any) -> str:
    pq.write_table(pa.table(columns), path, row_group_size=4)
    return str(path)


def read(path: str, *, key: str = "text") -> list[Any]:
    groups = pq.ParquetFile(path).num_row_groups
    return [value for part in read_values(path, start=0, stop=groups, key=key) for value in part]


def as_bytes(texts: list[str | None]) -> list[bytes | None]:
    return [text if text is None else text.encode() for text in texts]


MAKERS: dict[str, Callable[[], Any]] = {
    "string": lambda: pa.array(TEXTS),
    "large_string": lambda: pa.array(TEXTS, pa.large_string()),
    "string_view": lambda: pa.array(TEXTS, pa.string_view()),
    "binary": lambda: pa.array(as_bytes(TEXTS)),
    "binary_view": lambda: pa.array(as_bytes(TEXTS), pa.binary_view()),
    "large_binary": lambda: pa.array(as_bytes(TEXTS), pa.large_binary()),
    "categories": lambda: pa.array(TEXTS).dictionary_encode(),
    "large_categories": lambda: pa.array(TEXTS, pa.large_string()).dictionary_encode(),
    "few_categories": lambda: pa.DictionaryArray.from_arrays(
        pa.array([0, None, 1, 2, 3, 0], pa.int8()),
        pa.array(["A river.", "", "naïve 日本", "A hill."]),
    ),
    "json": lambda: pa.ExtensionArray.from_storage(pa.json_(), pa.array(TEXTS)),
    "large_json": lambda: pa.ExtensionArray.from_storage(
        pa.json_(pa.large_string()), pa.array(TEXTS, pa.large_string())
    ),
    "opaque": lambda: pa.ExtensionArray.from_storage(
        pa.opaque(pa.string(), "text", "someone"), pa.array(TEXTS)
    ),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_text_of_any_type_is_read(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "a.parquet", n=range(len(TEXTS)), text=MAKERS[kind]())
    assert (
        read(path)
        == as_bytes(pq.read_table(path)["text"].cast("string").to_pylist())
        == as_bytes(TEXTS)
    )


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.string()), pa.large_list(pa.large_string()), pa.list_view(pa.string_view())],
)
def test_lists_of_texts_are_sentences(tmp_path: Path, kind: pa.DataType) -> None:
    rows = [["a", "b"], [], None, ["c", None], ["日本"]]
    path = write(tmp_path / "a.parquet", text=pa.array(rows, kind))
    assert read(path) == [row if row is None else as_bytes(row) for row in rows]


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array([1, 2]), "int64"),
        (pa.array([1.5, None]), "double"),
        (pa.array([{"text": "inner"}]), "struct<text: string>"),
        (pa.array([[1], [2]]), "list<element: int64>"),
        (pa.array([1, 1]).dictionary_encode(), "int64"),
        (pa.array([[("a", "b")]], pa.map_(pa.string(), pa.string())), "map<string, string"),
        (
            pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"a" * 16], pa.binary(16))),
            "arrow.uuid",
        ),
    ],
)
def test_what_is_no_text_is_refused_by_the_name_of_its_type(
    tmp_path: Path, column: Any, kind: str
) -> None:
    path = write(tmp_path / "a.parquet", text=column, body=["x"] * len(column))
    with pytest.raises(DataError) as caught:
        read(path)
    assert f"column 'text' is of type {kind}" in str(caught.value).replace("extension<", "")
    assert "columns of text are: body. Use --key NAME" in str(caught.value)


def test_a_column_is_told_by_its_whole_name(tmp_path: Path) -> None:
    inner = pa.array([{"text": "inner", "b": {"c": "deep"}}])
    path = write(tmp_path / "a.parquet", **{"a": inner, "a.text": ["outer"], "a.b.c": ["flat"]})
    assert read(path, key="a.text") == [b"outer"]
    assert read(path, key="a.b.c") == [b"flat"]
    with pytest.raises(DataError, match=r"column 'a' is of type struct<"):
        read(path, key="a")
    with pytest.raises(DataError, match=r"has no column 'a.b'; its columns are: a, a.text, a.b.c"):
        read(path, key="a.b")


@pytest.mark.parametrize("times", [2, 3])
def test_columns_of_one_name_are_refused_unless_another_is_wanted(
    tmp_path: Path, times: int
) -> None:
    columns = [pa.array(["x"])] * times + [pa.array(["y"])]
    table = pa.Table.from_arrays(columns, names=["text"] * times + ["body"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=rf"has {times} columns named 'text', and nothing says"):
        read(str(tmp_path / "a.parquet"))
    assert read(str(tmp_path / "a.parquet"), key="body") == [b"y"]


@pytest.mark.parametrize("codec", [3, 8, 9], ids=["LZO", "newer", "newer still"])
def test_what_pyarrow_lacks_is_not_called_damage(codec: int, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a"]}), path, compression="none")
    # The footer names the column and then its codec, twice its number.
    named, content = b"\x18\x04text\x15", path.read_bytes()
    assert content.count(named + b"\x00") == 1
    path.write_bytes(content.replace(named + b"\x00", named + bytes([2 * codec])))
    with pytest.raises(DataError, match=r"with something that pyarrow cannot read here \(.*upport"):
        read(str(path))


def test_what_is_encrypted_or_damaged_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "b.parquet").write_bytes(b"PARE" + b"\x00" * 40 + b"PARE")
    with pytest.raises(DataError, match=r"b.parquet is encrypted"):
        parquet.row_group_bytes(str(tmp_path / "b.parquet"))
    whole = write(tmp_path / "c.parquet", text=["a"])
    Path(whole).write_bytes(Path(whole).read_bytes()[:-5])
    with pytest.raises(DataError, match=r"is not a complete Parquet file"):
        parquet.row_group_bytes(whole)


def test_parts_are_bounded_where_long_rows_follow_short_ones(tmp_path: Path) -> None:
    texts = ["x"] * 20_000 + ["y" * 100_000] * 200 + ["z"] * 7
    path = write(tmp_path / "a.parquet", text=texts)
    pq.write_table(pa.table({"text": pa.array(texts).dictionary_encode()}), tmp_path / "b.parquet")
    for name in (path, str(tmp_path / "b.parquet")):
        parts = list(
            read_values(name, start=0, stop=pq.ParquetFile(name).num_row_groups, key="text")
        )
        sizes = [
            sum(len(value or b"") for value in part if isinstance(value, bytes)) for part in parts
        ]
        assert max(sizes) <= BATCH_BYTES + 100_000
        assert (
            b"".join(v for part in parts for v in part if isinstance(v, bytes))
            == "".join(texts).encode()
        )
