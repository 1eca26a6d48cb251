"""Rows of a Parquet file; numbers count from 1, for it has no header row."""

import datetime
import io
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pyarrow
import pyarrow.parquet

from t2local.errors import T2LocalError
from t2local.pictures import data_uri, picture_kind
from t2local.tasks.rows import RowsRead, objects, shown

MOST_UNPACKED_BYTES = 2**30


def parquet_rows(name: str, content: bytes) -> RowsRead:
    """All rows. Raises `T2LocalError` for a damaged file, or one that is too large unpacked."""
    try:
        file = pyarrow.parquet.ParquetFile(io.BytesIO(content))
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        unpacked = sum(group.total_byte_size for group in groups)
        if unpacked > MOST_UNPACKED_BYTES:
            raise T2LocalError(
                f"'{name}' has {unpacked // 2**20} MB when unpacked, the most is "
                f"{MOST_UNPACKED_BYTES // 2**20} MB; take a part of it."
            )
        rows = file.read(use_threads=False).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, TypeError) as error:
        raise T2LocalError(
            f"'{name}' is a damaged Parquet file ({shown(str(error), 120)}); save it anew."
        ) from error
    return objects((number, _plain(row)) for number, row in enumerate(rows, 1))


def _plain(value: Any) -> Any:
    """What JSON has a word for; a whole number in a column of decimals is written as one."""
    match value:
        case Mapping():
            return {str(key): _plain(part) for key, part in value.items()}
        case list() | tuple():
            return [_plain(part) for part in value]
        case float() if value.is_integer() and abs(value) < 1e15:
            return int(value)
        case bytes() if picture_kind(value):
            return data_uri(value)
        case bytes():
            return value.decode("utf-8", "replace")
        case datetime.datetime() if value.time() == datetime.time():
            return str(value.date())
        case datetime.date() | datetime.time() | datetime.timedelta() | Decimal():
            return str(value)
        case None | bool() | int() | float() | str():
            return value
    return str(value)
