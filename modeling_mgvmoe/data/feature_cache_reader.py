"""Reading a cache of picture features, as `feature_cache.py` makes it: checked as a whole once, then row by row."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from .feature_cache_files import DTYPE, HEADER, PLAN, array_layout, file_digest, read_header, shard_name
from .feature_cache_origin import check_frozen, difference, preprocessing_fingerprint, tower_fingerprint
from .post_pictures import picture_key
from .progress_bar import progress_bar

if TYPE_CHECKING:
    from ..modeling_mgvmoe import MGVMoEForZeroShotIE
    from ..processing_mgvmoe import MGVMoEProcessor


class ImageFeatureCache:
    """A complete cache, for reading. It holds no file open and no page mapped, so workers may have copies of it.

    Args:
        folder: of the cache.
        verify: compare every shard with its digest; it reads the whole cache once.
        progress: show a progress bar meanwhile.

    Raises:
        FileNotFoundError: the folder has no header, so it is no cache or not yet a complete one; or a shard is gone.
        ValueError: a file is corrupt, truncated or of another format; the message names file, field and values.
    """

    def __init__(self, folder: str | os.PathLike[str], verify: bool = True, progress: bool = False):
        self.folder = os.fspath(folder)
        self.path = os.path.join(self.folder, HEADER)
        if not os.path.isfile(self.path):
            unfinished = os.path.isfile(os.path.join(self.folder, PLAN))
            raise FileNotFoundError(
                f"image_feature_cache: {self.path} does not exist; "
                + ("the cache is not complete: run" if unfinished else "make the cache with")
                + " examples/prepare_data.py --cache-image-features"
                + (" again, it goes on where it stopped" if unfinished else "")
            )
        try:
            self._read_layout()
        except (AttributeError, LookupError, TypeError) as error:
            raise ValueError(f"{self.path}: corrupt, a field is missing or of another type: {error!r}") from error
        if verify:
            self.verify(progress)

    def _read_layout(self) -> None:
        self.header = read_header(self.path)
        self.tokens, self.width = int(self.header["tokens"]), int(self.header["width"])
        self.rows = {key: row for row, key in enumerate(self.header["pictures"])}
        self.shard_size = int(self.header["shard_size"])
        names = [entry["file"] for entry in self.header["shards"]]
        if names != [shard_name(number) for number in range(len(names))]:
            raise ValueError(f"{self.path}: shards must be files beside it, got {names[:3]}")
        self.files = [os.path.join(self.folder, name) for name in names]
        self.counts = [int(entry["pictures"]) for entry in self.header["shards"]]
        self.offsets = [self._check_shard(number) for number in range(len(self.files))]
        if sum(self.counts) != len(self.rows):
            raise ValueError(f"{self.path}: the shards hold {sum(self.counts)} pictures, got {len(self.rows)} keys")

    def __len__(self) -> int:
        return len(self.rows)

    def verify(self, progress: bool = False) -> None:
        """Compare every shard with its digest.

        Raises:
            ValueError: one differs.
        """
        for path, entry in zip(
            progress_bar(self.files, "checking the feature cache", unit="file", show=progress),
            self.header["shards"],
            strict=True,
        ):
            digest = file_digest(path)
            if digest != entry["sha256"]:
                raise ValueError(
                    f"{path}: corrupt, its sha256 must be {entry['sha256']}, got {digest}; remove the cache and make "
                    "it again"
                )

    def check(self, model: MGVMoEForZeroShotIE, processor: MGVMoEProcessor) -> None:
        """Make sure that the features are those which the model's own tower would give.

        Raises:
            ValueError: the tower is trained, or tower or preprocessing differ from those that made the cache.
        """
        check_frozen(model)
        for name, value in (
            ("tower", tower_fingerprint(model)),
            ("preprocessing", preprocessing_fingerprint(processor)),
            ("width", model.config.vision_width),
        ):
            if self.header[name] != value:
                raise ValueError(f"{self.path}: {difference(name, self.header[name], value)}. Make the cache again.")

    def row_of(self, picture: Image.Image, where: str = "picture") -> int:
        """Where the features of an RGB picture are.

        Raises:
            ValueError: the cache does not have the picture.
        """
        key = picture_key(picture)
        if key not in self.rows:
            raise ValueError(
                f"{self.path}: pictures: {where} is not among the {len(self)} that were cached, got sha256 {key}. "
                "Make the cache again."
            )
        return self.rows[key]

    def read(self, rows: Sequence[int]) -> np.ndarray:
        """Features of some pictures, copied out of the files.

        Each row is mapped, copied and unmapped: pages that stay mapped count as resident memory of the process, up to
        the whole cache in an epoch. The system keeps them in its page cache all the same.

        Args:
            rows: of [`row_of`].

        Returns:
            (len(rows), Li, H'), half precision.
        """
        features = np.empty((len(rows), self.tokens, self.width), dtype=np.float16)
        bytes_per_row = self.tokens * self.width * DTYPE.itemsize
        for place, row in enumerate(rows):
            if not 0 <= row < len(self):
                raise ValueError(f"rows: they must be in [0, {len(self)}), got {row}")
            shard, number = divmod(row, self.shard_size)
            with open(self.files[shard], "rb") as file:
                # Behind the end of a file that shrank, a map kills the process instead of raising.
                self._check_size(shard, os.fstat(file.fileno()).st_size)
                offset = self.offsets[shard] + number * bytes_per_row
                features[place] = np.memmap(file, DTYPE, mode="r", offset=offset, shape=(self.tokens, self.width))
        return features

    def _check_shard(self, number: int) -> int:
        """Where the features begin in a shard whose layout is as the header says."""
        path = self.files[number]
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{path} does not exist, but {self.path} lists it")
        shape, offset = array_layout(path)
        wanted = (self.counts[number], self.tokens, self.width)
        if shape != wanted:
            raise ValueError(f"{path}: shape must be {wanted}, got {shape}")
        last = number == len(self.files) - 1
        if self.counts[number] != self.shard_size and not (last and 0 < self.counts[number] < self.shard_size):
            raise ValueError(f"{path}: pictures must be {self.shard_size}, got {self.counts[number]}")
        self._check_size(number, os.path.getsize(path), offset)
        return offset

    def _check_size(self, number: int, size: int, offset: int | None = None) -> None:
        start = self.offsets[number] if offset is None else offset
        wanted = start + self.counts[number] * self.tokens * self.width * DTYPE.itemsize
        if size != wanted:
            raise ValueError(f"{self.files[number]}: truncated or corrupt, it must have {wanted} bytes, got {size}")
