"""Executing stages: plans, holds, canary checks, signatures, unlocking, status.

Imported by the command line only.
"""
