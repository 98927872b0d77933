"""Reports of studies: statistics, tables and plots. `python -m digits_jax.studies.report` writes one."""

from digits_jax.studies.report.page import build_page, gallery, write_page
from digits_jax.studies.report.statistics import Estimate, estimate, prediction_interval
from digits_jax.studies.report.study import (
    Study,
    create_study,
    describe,
    read_variants,
    scale_of,
    training_images,
)

__all__ = [
    "Estimate",
    "Study",
    "build_page",
    "create_study",
    "describe",
    "estimate",
    "gallery",
    "prediction_interval",
    "read_variants",
    "scale_of",
    "training_images",
    "write_page",
]
