"""Its being here puts this folder on the import path."""
