"""Long array over pieces in other files, never whole in memory."""

from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from dh2l.data.images import Labels, Pixels


@dataclass(frozen=True)
class RaggedArray:
    """Images of many sizes as one array, ``(P, C)`` uint8: pixels one after another, row by row.

    Attributes:
        pieces: the images, ``(H, W, C)`` each.
    """

    pieces: tuple[Pixels, ...]

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """``(P, C)``."""
        return sum(piece.shape[0] * piece.shape[1] for piece in self.pieces), self.pieces[0].shape[
            2
        ]

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """uint8."""
        return np.dtype(np.uint8)

    @property
    def sizes(self) -> Labels:
        """Height and width of each image, ``(N, 2)``."""
        return np.array([piece.shape[:2] for piece in self.pieces], dtype=np.int64)

    def write(self, stream: BinaryIO) -> None:
        """Write the array as `np.save` would."""
        header = {"descr": "|u1", "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(stream, header)
        for piece in self.pieces:
            stream.write(np.ascontiguousarray(piece).data)


Array = Pixels | Labels | RaggedArray
