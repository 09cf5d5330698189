"""Policies that leave: exported, and in a control loop."""
