"""The command line: `python -m modeling_mgvmoe` and, once installed, `mgvmoe`."""
