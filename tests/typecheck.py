"""The run-time check of annotations under pytest: beartype, with an int accepted where a float is asked for."""

from beartype import BeartypeConf, beartype

typecheck = beartype(conf=BeartypeConf(is_pep484_tower=True))
