"""Networks: Equinox modules whose every leaf is an inexact array, so plain jit, vmap, scan, grad and optax work."""
