"""Atomic files, SHA-256 manifests and buckets."""
