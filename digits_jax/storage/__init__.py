"""Atomic files, SHA-256 manifests, buckets, and the compilation cache's directory."""

import os

from digits_jax.ops.compilation import cache_folder, num_cores
from digits_jax.ops.compilation import enable_cache as enable_compilation_cache
from digits_jax.storage.bucket import Mirror, is_bucket, local_copy, local_folder
from digits_jax.storage.disk import MANIFEST, damage, refusal, replace_text, write_manifest

PathLike = str | os.PathLike
from etils.epath import Path as path
