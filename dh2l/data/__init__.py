"""Data sets, prepared once into arrays that every trial maps into memory and none decodes again.

    prepare("digits", root)                         # once
    data = load("digits", root)                     # in each trial: opens, checks sizes, reads nothing yet
    train, validation = stratified_split(data.train_y, fraction=0.1, seed=0)

Importing this imports neither torch nor Pillow nor scikit-learn.
"""

from dh2l.data.manifest import FileRecord, Manifest
from dh2l.data.prepare import prepare
from dh2l.data.sources import BUILT_IN
from dh2l.data.split import stratified_split
from dh2l.data.store import PreparedData, load, prepared, read_manifest, verify

__all__ = [
    "BUILT_IN",
    "FileRecord",
    "Manifest",
    "PreparedData",
    "load",
    "prepare",
    "prepared",
    "read_manifest",
    "stratified_split",
    "verify",
]
