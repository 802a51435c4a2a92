"""The sizes of the data sets by their former names."""

from transformer2.config.sizes import ITEMS as SOURCE_ROWS
from transformer2.config.sizes import available

__all__ = ["SOURCE_ROWS", "available"]
