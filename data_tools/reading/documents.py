"""Documents out of files of any kind, piece by piece, with memory that does not grow with them."""

from data_tools.reading.pieces import plan_pieces, read_piece
from data_tools.reading.sampling import sample_text
from data_tools.reading.values import Document, Piece, ReadOptions, Skipped

__all__ = [
    "Document",
    "Piece",
    "ReadOptions",
    "Skipped",
    "plan_pieces",
    "read_piece",
    "sample_text",
]
