"""Checks of the files in powerinfer_cli/deploy: the parts of `scripts/checks/check_deploy.py`."""
