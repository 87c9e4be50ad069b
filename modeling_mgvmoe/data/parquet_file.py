"""A Parquet file of posts as a data set: what is wrong with the file is told by its name, and nothing is fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset


def read_parquet(path: str) -> Dataset:
    """The rows of a file. Pictures in it stay closed.

    Raises:
        ValueError: it is no Parquet file, is damaged, holds no post, or names a picture by an address, which
            `datasets` would fetch from any host without asking.
    """
    import pyarrow
    import pyarrow.parquet
    from datasets import Dataset
    from datasets.exceptions import DatasetsError

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            rows = file.metadata.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: it cannot be read as Parquet: {error}") from error
    if not rows:
        raise ValueError(f"{path}: it holds no post")
    try:
        posts = Dataset.from_parquet(path)
    except (pyarrow.ArrowException, DatasetsError, NotImplementedError) as error:
        raise ValueError(f"{path}: damaged or of types that are not read: {error.__cause__ or error}") from error
    _check_pictures(posts, path)
    return posts


def _check_pictures(posts: Dataset, path: str) -> None:
    import pyarrow.compute
    from datasets import Image

    if not isinstance(posts.features.get("image"), Image):
        return
    images = posts.data.column("image")
    paths = pyarrow.compute.struct_field(images, "path")
    outside = pyarrow.compute.is_null(pyarrow.compute.struct_field(images, "bytes"))
    for row, (name, alone) in enumerate(zip(paths.to_pylist(), outside.to_pylist(), strict=True)):
        if alone and name is not None and ("://" in name or "::" in name):
            raise ValueError(
                f"{path}, row {row}: image must hold the picture's bytes or the path of a file, got the address "
                f"{name!r:.200}"
            )
