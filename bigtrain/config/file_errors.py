"""Tells an error that the user must correct from a file system that fails for a time.

A path that does not exist is bad input, and trying again does not help. A stale NFS handle, an I/O
error or a full disk is not: another node, or the same node a minute later, may read the same file.
"""

import errno

_BAD_INPUT = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.EEXIST,
        errno.ENOTEMPTY,
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.EINVAL,
        errno.ENXIO,
        errno.ENODEV,
        errno.EXDEV,
    }
)


def is_bad_input(error: OSError) -> bool:
    """Whether a file error names a path that the user has to correct."""
    return error.filename is not None and error.errno in _BAD_INPUT
