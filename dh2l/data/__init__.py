"""Data sets, prepared once into arrays that trials map into memory.

    prepare("digits", root)                         # once
    data = load("digits", root)                     # in each trial: maps the files
    train, validation = stratified_split(data.train_y, fraction=0.1, seed=0)

Importing this imports neither torch nor Pillow nor scikit-learn.
"""

from dh2l.data.class_trees import read_tree, shipped_trees
from dh2l.data.images import ImageFiles, Images
from dh2l.data.manifest import FileRecord, Manifest
from dh2l.data.prepare import prepare
from dh2l.data.reader import PreparedData, load, prepared, read_manifest, verify
from dh2l.data.registry import DATA_SETS, DataSet, register, register_planted
from dh2l.data.sources.planted import Planted, planted
from dh2l.data.split import stratified_split

__all__ = [
    "DATA_SETS",
    "DataSet",
    "FileRecord",
    "ImageFiles",
    "Images",
    "Manifest",
    "Planted",
    "PreparedData",
    "load",
    "planted",
    "prepare",
    "prepared",
    "read_manifest",
    "read_tree",
    "register",
    "register_planted",
    "shipped_trees",
    "stratified_split",
    "verify",
]
