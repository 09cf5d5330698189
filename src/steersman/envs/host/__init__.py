"""Environments of Gymnasium's API: stepped in this process or in workers."""
