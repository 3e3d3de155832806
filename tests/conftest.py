"""Makes transformers, trl and peft importable beside a CPU torch before any test module imports them."""

import rlvr_lib  # noqa: F401
