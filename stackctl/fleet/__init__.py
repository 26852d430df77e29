"""Reaching hosts: pinned SSH, agent delivery, parallel convergence."""
