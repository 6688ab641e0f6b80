"""Files and folders that systems leave among images: skipped by every reader, and counted."""

_LITTER = frozenset(
    {
        *(
            "thumbs.db",
            "thumbs.db:encryptable",
            "ehthumbs.db",
            "ehthumbs_vista.db",
            "desktop.ini",
            "folder.htt",
        ),
        *("$recycle.bin", "system volume information", "found.000"),
        *(
            "__macosx",
            "icon\r",
            "network trash folder",
            "temporary items",
            "thevolumesettingsfolder",
        ),
        *("@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),
        *("lost+found", "__pycache__", "picasa.ini", "zbthumbnail.info"),
    }
)
"""Names that Windows, macOS, network storage, file systems and viewers give, in small letters."""
_BEGINNINGS = (".", "~$", "synofile_thumb_")


def is_litter(name: str) -> bool:
    """Return True for a name of a hidden file or folder, or of one that systems create."""
    small = name.lower()
    return small in _LITTER or small.startswith(_BEGINNINGS)
