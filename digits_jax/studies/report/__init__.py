"""Reports of studies: statistics, tables and plots. `python -m digits_jax.studies.report` writes one."""
