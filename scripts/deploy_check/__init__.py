"""Checks of the files in powerinfer_cli/deploy: the parts of `scripts/check_deploy.py`."""
