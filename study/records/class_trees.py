"""Class trees that a run leaves beside the records."""

from pydantic import TypeAdapter, ValidationError

from dh2l.errors import DataError
from dh2l.io.files import AnyPath, read
from dh2l.tree import ClassTree


def read_noted_tree(file: AnyPath) -> ClassTree:
    """Read the class tree that a run left beside the records.

    Raises:
        DataError: it is missing or damaged.
    """
    try:
        return ClassTree(TypeAdapter(list[list[str]]).validate_json(read(file)))
    except OSError as error:
        raise DataError(
            f"the class tree {file} cannot be read ({error.strerror}); copy it from where the run "
            "was"
        ) from None
    except ValidationError:
        raise DataError(
            f"the class tree {file} is damaged; copy it anew from where the run was"
        ) from None
