"""Executing stages: plans, holds, canary checks, signatures, unlocking, status.

Only the command line imports it.
"""
