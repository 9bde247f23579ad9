"""The rollout's stages: preflight, holds, signoffs and rollback, over one folder with a chained journal."""
