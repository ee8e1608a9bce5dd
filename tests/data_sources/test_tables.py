"""Tests of tables: types, categories, missing values, in files of both kinds."""

from pathlib import Path
from typing import Any

import pytest
import torch

from loopwright.datasets import ClassLabel, Csv, Parquet, encode_rows

pyarrow = pytest.importorskip("pyarrow")

TEXT = """age,sex,fare,town,alive
22,male,7.25,S,no
38,female,71,C,yes
,female,8,,yes
35,male,?,S,no
"""
NAN = float("nan")
ROWS = [[22, 1, 7.25, 1], [38, 0, 71, 0], [NAN, 0, 8, NAN], [35, 1, NAN, 1]]


def make(tmp_path: Path, kind: str, **options: Any) -> Csv | Parquet:
    path = tmp_path / "table.csv"
    path.write_text(TEXT)
    if kind == "csv":
        return Csv(str(path), **options)
    options_for_csv = {"strings_can_be_null": True, "null_values": ["", "?"]}
    csv = pytest.importorskip("pyarrow.csv")
    table = csv.read_csv(path, convert_options=csv.ConvertOptions(**options_for_csv))
    target = tmp_path / "table.parquet"
    pytest.importorskip("pyarrow.parquet").write_table(table, target, row_group_size=2)
    return Parquet(str(target), **options)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_numbers_categories_and_missing_values(kind: str, tmp_path: Path) -> None:
    source = make(tmp_path, kind, target="alive")
    info = source.features_info
    assert info.names == ("age", "sex", "fare", "town")
    assert info.categories == ((), ("female", "male"), (), ("C", "S"))
    assert (info.shape, info.dtype) == ((4,), torch.float32)
    assert isinstance(source.labels_info, ClassLabel)
    assert source.labels_info.names == ("no", "yes")
    features, labels = source.tensors()
    torch.testing.assert_close(features, torch.tensor(ROWS), equal_nan=True)
    assert labels.tolist() == [0, 1, 1, 0]
    for start, stop in ((1, 3), (3, 4), (0, 2)):
        part, some = source.read(start, stop)
        torch.testing.assert_close(part, features[start:stop], equal_nan=True)
        assert torch.equal(some, labels[start:stop])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_chosen_columns_and_numbers_as_categories(kind: str, tmp_path: Path) -> None:
    source = make(tmp_path, kind, target="fare", features=["age", "sex"], categories=["age"])
    assert [len(known) for known in source.features_info.categories] == [3, 2]
    assert source.labels_info.shape == (1,)
    with pytest.raises(ValueError, match="have no fare"):
        source.tensors()
    source = make(tmp_path, kind, target="sex", features=["fare"], task="classification")
    assert source.labels_info.names == ("female", "male")
    with pytest.raises(ValueError, match="sex holds text"):
        make(tmp_path, kind, target="sex", task="regression").labels_info  # noqa: B018
    with pytest.raises(ValueError, match="no column 'town2'. It has: age"):
        make(tmp_path, kind, target="sex", features=["town2"]).features_info  # noqa: B018


def test_whole_numbers_name_classes_where_they_are_few(tmp_path: Path) -> None:
    few, many = tmp_path / "few.csv", tmp_path / "many.csv"
    few.write_text("x,y\n" + "".join(f"{i},{i % 12}\n" for i in range(60)))
    many.write_text("x,y\n" + "".join(f"{i},{i}\n" for i in range(60)))
    source = Csv(str(few), "y")
    assert source.labels_info.names == tuple(str(i) for i in range(12))
    assert source.tensors()[1].tolist() == [i % 12 for i in range(60)]
    assert Csv(str(many), "y").labels_info.shape == (1,)
    assert isinstance(Csv(str(many), "y", task="classification").labels_info, ClassLabel)


def test_what_is_no_table_is_told(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    with pytest.raises(ValueError, match="There is no file"):
        Csv(str(path), "y")
    path.write_text("a,b\n1,2\n1,2,3\n")
    with pytest.raises(ValueError, match="Expected 2 columns, got 3"):
        Csv(str(path), "b").features_info  # noqa: B018
    path.write_text("a,b\n" + "1,2\n" * 300_000 + "text,3\n")
    with pytest.raises(ValueError, match="listed in categories"):
        Csv(str(path), "b").features_info  # noqa: B018
    path.write_text("a,b\n" + "".join(f"name{i},2\n" for i in range(1001)))
    with pytest.raises(ValueError, match="column a holds more than 1000 different texts"):
        Csv(str(path), "b").features_info  # noqa: B018
    (tmp_path / "no.parquet").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no Parquet file"):
        Parquet(str(tmp_path / "no.parquet"), "b").features_info  # noqa: B018


def test_rows_of_values_are_encoded_as_in_the_file(tmp_path: Path) -> None:
    info = make(tmp_path, "csv", target="alive").features_info
    rows = encode_rows(
        [{"age": 22, "sex": "male", "fare": "7.25", "town": "S"}, {"sex": "?"}], info
    )
    torch.testing.assert_close(rows, torch.tensor([ROWS[0], [NAN] * 4]), equal_nan=True)
    with pytest.raises(ValueError, match="Row 0: age is 'old', expected a number"):
        encode_rows([{"age": "old"}], info)
    with pytest.raises(ValueError, match="a column 'port'. Known: age"):
        encode_rows([{"port": "S"}], info)
