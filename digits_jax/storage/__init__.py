"""Atomic files, SHA-256 manifests, directories on buckets, and the directory of compiled programs."""

from digits_jax.storage.bucket import Mirror, PathLike, is_bucket, local_copy, local_folder, open_path
from digits_jax.storage.compilation_cache import enable_compilation_cache, num_cores, user_cache_dir
from digits_jax.storage.files import (
    MANIFEST,
    find_damage,
    is_sealed,
    read_facts,
    replace_bytes,
    replace_text,
    seal,
    write_error,
    write_manifest,
)  # fmt: skip
from digits_jax.storage.json_file import Schema, check_fields, parse_json, read_json, read_text

__all__ = [
    "MANIFEST", "Mirror", "PathLike", "Schema", "check_fields", "enable_compilation_cache", "find_damage", "is_bucket",
    "is_sealed", "local_copy", "local_folder", "num_cores", "open_path", "parse_json", "read_facts", "read_json",
    "read_text", "replace_bytes", "replace_text", "seal", "user_cache_dir", "write_error", "write_manifest",
]  # fmt: skip
