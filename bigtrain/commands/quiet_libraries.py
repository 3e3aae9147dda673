"""Keeps the banners and warnings of other libraries out of a command's output."""

import warnings


def quiet_libraries() -> None:
    """Silences other libraries; call it before they are imported."""
    from bigtrain.environment import quiet_foreign_libraries

    quiet_foreign_libraries()
    warnings.filterwarnings("ignore")
