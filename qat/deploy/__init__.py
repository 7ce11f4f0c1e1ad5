"""Deployment: what backends and targets are, evaluation on any of them, and the certificate of an exported file."""
